"""inotify(7), as far as new directories need it."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator, MutableMapping
from typing import Final

_IN_CREATE: Final = 0x100
_IN_IGNORED: Final = 0x8000
_IN_Q_OVERFLOW: Final = 0x4000
_IN_ONLYDIR: Final = 0x01000000
_IN_ISDIR: Final = 0x40000000
#: struct inotify_event: watch, mask, cookie, length of the name behind it.
_EVENT: Final = struct.Struct("=iIII")

#: Errors of a directory that went away.
ENDED: Final = frozenset({errno.ENOENT, errno.ENOTDIR})

_libc = ctypes.CDLL(None, use_errno=True)


class Overflow(Exception):
    """Events were lost."""


class Inotify:
    """Notices directories that are made in the watched ones."""

    def __init__(self) -> None:
        self._number = _check(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))

    def fileno(self) -> int:
        """Return a descriptor that is readable when something was made."""
        return self._number

    def watch(self, directory: str) -> int:
        """Watch a directory; return the number of the watch. Raise OSError."""
        mask = _IN_CREATE | _IN_ONLYDIR
        return _check(_libc.inotify_add_watch(self._number, os.fsencode(directory), mask))

    def made(self, watched: MutableMapping[int, str]) -> Iterator[str]:
        """Yield the directories that were made; forget watches of those that ended.

        Raise Overflow.
        """
        try:
            data = os.read(self._number, 65536)
        except BlockingIOError:
            return
        offset = 0
        while offset < len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size
            name = data[offset : offset + length].rstrip(b"\0")
            offset += length
            if mask & _IN_Q_OVERFLOW:
                raise Overflow
            if mask & _IN_IGNORED:
                watched.pop(watch, None)
            elif mask & _IN_ISDIR and watch in watched:
                yield os.path.join(watched[watch], os.fsdecode(name))

    def close(self) -> None:
        """End all watches."""
        os.close(self._number)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
