"""Values that are read again only after a write to their files.

Limits are read far more often than they change, and a container's come from a file or two at each
level above it. inotify(7) reports a write before write(2) returns, whichever mount of the
hierarchy it came through, so no reader gets a limit that was changed before its read. Values that
the kernel changes by itself (effective CPU sets, usage) do not belong here. Knows no cgroup.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import select
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from pylxcfs.errors import SourceError
from pylxcfs.sources.kept import Descriptor, KeptFile

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: IN_MODIFY, and IN_ATTRIB for the attribute of request.py.
_CHANGED = 0x2 | 0x4

#: struct inotify_event without its name, which watched files do not have.
_EVENT = struct.Struct("=iIII")
#: Events that are read at once; if there are more, every watched file counts as written.
_MOST_EVENTS = 4096

#: Files of a setting that may stay open, those of about 32 levels. The files of levels above are
#: opened for each computation, so that deep cgroups do not use up the server's descriptors.
_MOST_OPEN = 96

#: Seconds after which a value is read again in any case.
_BELIEVED_S = 10.0

_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """A file that is watched while this object lives; `writes` counts."""

    __slots__ = ("__weakref__", "writes")

    def __init__(self) -> None:
        self.writes = 0


class _Reference(weakref.ref[Watch]):
    """A weak reference to a watch, with its inotify watch descriptor."""

    __slots__ = ("number",)

    number: int


class Writes:
    """Writes to watched files, from one inotify instance."""

    def __init__(self) -> None:
        #: How many times `look` found writes to any file.
        self.count = 0
        #: While this is set `look` finds none: for many values of one time, after one look.
        self.held = False
        self._lock = threading.RLock()
        self._watches: dict[int, _Reference] = {}
        # Weak, so that the instance is closed with its last user: a user has 128 of them.
        ended = weakref.WeakMethod(self._ended)
        self._on_end = lambda reference: _call(ended(), reference)
        self._refused = False
        self._pid = os.getpid()
        self._fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        if self._fd >= 0:
            self._descriptor = Descriptor(self._fd)
            self._poll.register(self._fd, select.POLLIN)
        else:
            self._refuse("instances")

    def watch(self, path: str, *, needed: bool = False) -> Watch | None:
        """Watch a file; None if that is not possible.

        `needed`: raise SourceError where this user has no inotify instance or watch left.
        """
        if self._fd < 0:
            if needed:
                raise out_of("instances")
            return None
        with self._lock:
            number = _libc.inotify_add_watch(self._fd, os.fsencode(path), _CHANGED)
            if number < 0:
                if needed and ctypes.get_errno() == errno.ENOSPC:
                    raise out_of("watches")
                if os.path.exists(path):
                    self._refuse("watches")
                return None
            watch = self._of(number)
            if watch is None:
                watch = Watch()
                reference = self._watches[number] = _Reference(watch, self._on_end)
                reference.number = number
            return watch

    def fileno(self) -> int:
        """Return a descriptor that is readable after a write; -1 where nothing is watched."""
        return self._fd

    def look(self) -> int:
        """Note the writes until now; return `count`."""
        if self._fd >= 0 and not self.held:
            with self._lock:
                if self._poll.poll(0):
                    self._note(os.read(self._fd, _MOST_EVENTS * _EVENT.size))
        return self.count

    def _of(self, number: int) -> Watch | None:
        found = self._watches.get(number)
        return found() if found is not None else None

    def _ended(self, reference: _Reference) -> None:
        """Remove a watch, unless another object has taken the number meanwhile.

        A child that was forked leaves the watches of its parent: both have one inotify instance.
        """
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._watches.get(reference.number) is reference:
                del self._watches[reference.number]
                _libc.inotify_rm_watch(self._fd, reference.number)

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
            _log.warning("%s; limits are read at each rendering", out_of(what))


def out_of(what: str) -> SourceError:
    """Return the error of a user without inotify "instances" or "watches"."""
    return SourceError(f"out of inotify {what}; raise fs.inotify.max_user_{what}")


class Setting(Generic[_T]):
    """The value of `compute`, computed again after a write to `files`."""

    __slots__ = ("_compute", "_files", "_made", "_watched", "_writes")

    def __init__(
        self, writes: Writes, files: Sequence[KeptFile], compute: Callable[[], _T]
    ) -> None:
        self._writes = writes
        self._files = files
        self._compute = compute
        #: None before the second read: a value that is read once is not worth watching.
        self._watched: list[Watch | None] | None = None
        #: The value, the writes to its files when it was made, the monotonic time at which it is
        #: read again, and Writes.count when its own were last counted. Replaced whole, as two
        #: threads may read.
        self._made: tuple[_T, int, float, int] | None = None

    def get(self) -> _T:
        """Return the value. Raise the errors of `compute`."""
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
        # Counted before the files are read: a write in between counts as not read.
        writes = _sum(watched or [])
        believed_s = _BELIEVED_S if watched and None not in watched else 0.0
        try:
            value = self._compute()
        finally:
            for file in self._files[_MOST_OPEN:]:
                file.close()
        self._made = value, writes, time.monotonic() + believed_s, count
        return value


def _call(function: Callable[[_T], None] | None, argument: _T) -> None:
    if function is not None:
        function(argument)


def _sum(watched: Sequence[Watch | None]) -> int:
    return sum([watch.writes for watch in watched if watch is not None])
