"""Which threads read which files whole in one call, and so may be served from the page cache.

Cached pages are replaced when a snapshot's life ends; a reader that takes a file in pieces could
get the first half of one snapshot and the second half of the next. The first reads of a thread
are therefore looked at; one that took two files whole is remembered, with whose process it is, for
as long as a pidfd says that it lives. And with how much it asked for: who takes /proc/uptime whole
with a buffer of 1 KiB does not take /proc/meminfo whole. Knows nothing of files but their numbers.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from typing import Final

#: pidfd_open(2) for a thread that leads no thread group: Linux 6.9+ (commit 64bef697d33b).
_PIDFD_THREAD: Final = os.O_EXCL

#: Bounds descriptors, not readers: the oldest is forgotten and has to show itself again.
_MOST_WATCHED: Final = 1024
_MOST_SEEN_ONCE: Final = 4096

#: Asks for as many bytes as it was told that there are, or for one more to see the end: Python,
#: Go, Rust. However long the file is, such a reader will take all of it.
_AS_TOLD: Final = 1
_ALL: Final = 1 << 62


class WholeReaders:
    """Threads seen to read whole files, each watched by a pidfd."""

    def __init__(self, most: int = _MOST_WATCHED) -> None:
        self._most = most
        self._watched: dict[int, int] = {}
        self._owners: dict[int, int] = {}
        self._by_fd: dict[int, int] = {}
        #: Bytes that a thread takes at once, by file.
        self._takes: dict[int, dict[int, int]] = {}
        self._seen_once: dict[int, tuple[int, int]] = {}
        self._epoll = select.epoll()
        #: The event loop reaps, too. Without this an end that it saw late could be taken for
        #: that of a thread which is being watched just now, and leave its owner behind.
        self._lock = threading.Lock()
        #: Called with each known thread of which something is known no more.
        self.on_forget: Callable[[int], None] = lambda tid: None

    def __contains__(self, tid: int) -> bool:
        return tid in self._watched

    def __len__(self) -> int:
        return len(self._watched)

    def fileno(self) -> int:
        """Readable when a watched thread has ended: call `reap` then."""
        return self._epoll.fileno()

    def owner(self, tid: int) -> int:
        """Return what `identify` said of a known thread, 0 for others.

        Reap first: a thread's pidfd is readable before the kernel gives its number away, so one
        whose number came back is never taken for the old one.
        """
        return self._owners.get(tid, 0)

    def takes(self, tid: int, file: int) -> int:
        """Return how many bytes of a file a known thread takes at once; 0 if that is not known."""
        return self._takes[tid].get(file, 0) if tid in self._takes else 0

    def saw_whole(
        self, tid: int, file: int, size: int, length: int, identify: Callable[[int], int]
    ) -> None:
        """Note that all `length` bytes of a file were read in one call that asked for `size`.

        The second time makes the thread known. `identify` is asked once the thread is watched; 0
        leaves it unknown.
        """
        if size - length <= _AS_TOLD:
            size = _ALL
        if tid in self._watched:
            self._takes[tid][file] = size
            return
        if tid not in self._seen_once:
            if len(self._seen_once) >= _MOST_SEEN_ONCE:
                self._seen_once.clear()
            self._seen_once[tid] = file, size
            return
        takes = dict([self._seen_once.pop(tid), (file, size)])
        self._watch(tid, takes, identify)

    def saw_piece(self, tid: int, file: int) -> None:
        """Note a file read in pieces: the thread has to show anew how it reads that."""
        if tid in self._watched:
            self._takes[tid].pop(file, None)
            self.on_forget(tid)
        else:
            self._seen_once.pop(tid, None)

    def reap(self) -> None:
        """Forget threads that have ended, before their numbers come back."""
        if not self._epoll.poll(0):
            return
        with self._lock:
            for fd, _ in self._epoll.poll(0):
                tid = self._by_fd.get(fd)
                if tid is not None:
                    self._forget(tid)

    def close(self) -> None:
        """Close every descriptor."""
        with self._lock:
            for tid in list(self._watched):
                self._forget(tid)
            self._epoll.close()

    def _watch(self, tid: int, takes: dict[int, int], identify: Callable[[int], int]) -> None:
        try:
            fd = os.pidfd_open(tid, _PIDFD_THREAD)
        except OSError:
            # Before 6.9 only thread-group leaders can be watched; others stay uncached.
            try:
                fd = os.pidfd_open(tid)
            except OSError:
                return
        owner = identify(tid)
        if not owner:
            os.close(fd)
            return
        with self._lock:
            while len(self._watched) >= self._most:
                self._forget(next(iter(self._watched)))
            if tid in self._watched:
                os.close(fd)
                return
            self._by_fd[fd] = tid
            self._watched[tid] = fd
            self._owners[tid] = owner
            self._takes[tid] = takes
            self._epoll.register(fd, select.EPOLLIN)

    def _forget(self, tid: int) -> None:
        """Drop a thread; with the lock held."""
        self._owners.pop(tid, None)
        self._takes.pop(tid, None)
        fd = self._watched.pop(tid, None)
        if fd is not None:
            self.on_forget(tid)
            del self._by_fd[fd]
            os.close(fd)
