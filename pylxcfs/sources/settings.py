"""Values that change only when somebody writes to their files, and are read again only then.

Limits are read far more often than they change, and a container's come from a file or two at each
level above it. inotify(7) tells of writes before write(2) returns, whichever mount of the
hierarchy they came through, so nobody is shown a limit that was changed before he asked. What the
kernel changes by itself (effective CPU sets, usage) is not for here. Knows no cgroup.
"""

from __future__ import annotations

import ctypes
import logging
import os
import select
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from pylxcfs.sources.kept import Descriptor, KeptFile

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

_IN_MODIFY = 0x2

#: struct inotify_event without its name, which watched files do not have.
_EVENT = struct.Struct("=iIII")
#: So many are looked at one by one; behind more of them there may be a write to any file.
_MOST_EVENTS = 4096

#: Seconds after which a value is read again, whatever was said: the net below.
_BELIEVED_S = 10.0

_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """One file that is watched, for as long as this is referred to. `writes` counts."""

    __slots__ = ("__weakref__", "writes")

    def __init__(self) -> None:
        self.writes = 0


class _Reference(weakref.ref[Watch]):
    """To a watch, with the number that inotify gave it."""

    __slots__ = ("number",)

    number: int


class Writes:
    """What was written to, by files that are watched. One for the process."""

    def __init__(self) -> None:
        #: Counts the times that anything was written to.
        self.count = 0
        self._lock = threading.RLock()
        self._watches: dict[int, _Reference] = {}
        self._on_end = self._ended
        self._refused = False
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        if self._fd >= 0:
            self._descriptor = Descriptor(self._fd)
            self._poll.register(self._fd, select.POLLIN)
        else:
            self._refuse("instances")

    def watch(self, path: str) -> Watch | None:
        """Watch a file; None if that cannot be done, and it has to be read each time."""
        if self._fd < 0:
            return None
        with self._lock:
            number = _libc.inotify_add_watch(self._fd, os.fsencode(path), _IN_MODIFY)
            if number < 0:
                if os.path.exists(path):
                    self._refuse("watches")
                return None
            watch = self._of(number)
            if watch is None:
                watch = Watch()
                reference = self._watches[number] = _Reference(watch, self._on_end)
                reference.number = number
            return watch

    def look(self) -> int:
        """Note what was written until now; return `count`."""
        if self._fd >= 0:
            with self._lock:
                if self._poll.poll(0):
                    self._note(os.read(self._fd, _MOST_EVENTS * _EVENT.size))
        return self.count

    def _of(self, number: int) -> Watch | None:
        found = self._watches.get(number)
        return found() if found is not None else None

    def _ended(self, whose: _Reference) -> None:
        """Watch a file no longer, unless somebody else began to do so meanwhile."""
        with self._lock:
            if self._watches.get(whose.number) is whose:
                del self._watches[whose.number]
                _libc.inotify_rm_watch(self._fd, whose.number)

    def _note(self, events: bytes) -> None:
        self.count += 1
        numbers: Iterable[int] = [number for number, *_ in _EVENT.iter_unpack(events)]
        if -1 in numbers or len(events) == _MOST_EVENTS * _EVENT.size:  # -1: some were lost
            numbers = list(self._watches)
        for number in numbers:
            watch = self._of(number)
            if watch is not None:
                watch.writes += 1

    def _refuse(self, what: str) -> None:
        if not self._refused:
            self._refused = True
            _log.warning(
                "the kernel watches no more files for us, so limits are read at every rendering;"
                " raise fs.inotify.max_user_%s to save that",
                what,
            )


class Setting(Generic[_T]):
    """A value that `compute` makes from `files`, made anew once one of them was written to."""

    __slots__ = ("_compute", "_files", "_made", "_watched", "_writes")

    def __init__(
        self, writes: Writes, files: Sequence[KeptFile], compute: Callable[[], _T]
    ) -> None:
        self._writes = writes
        self._files = files
        self._compute = compute
        #: None before the second reading: who is asked once need not pay for watching.
        self._watched: list[Watch | None] | None = None
        #: The value, how often its files had been written to when it was made, until when it is
        #: believed, and everybody's writes when its own were counted last; replaced whole, as two
        #: threads may read.
        self._made: tuple[_T, int, float, int] | None = None

    def get(self) -> _T:
        """Return the value. Raises what `compute` raises."""
        made, watched = self._made, self._watched
        count = self._writes.look()
        if made is not None and watched is not None and time.monotonic() < made[2]:
            if count == made[3]:
                return made[0]
            if made[1] == _sum(watched):
                self._made = *made[:3], count
                return made[0]
        if made is not None and watched is None:
            watched = self._watched = [self._writes.watch(file.path) for file in self._files]
        # Counted before the files are read: what is written meanwhile counts as not read.
        writes = _sum(watched or [])
        believed_s = _BELIEVED_S if watched and None not in watched else 0.0
        value = self._compute()
        self._made = value, writes, time.monotonic() + believed_s, count
        return value


def _sum(watched: Sequence[Watch | None]) -> int:
    return sum([watch.writes for watch in watched if watch is not None])
