"""Texts that outlive their server: those of files that are being read in pieces.

A reader that takes a file in pieces must get all of them from one rendering, also when the server
is killed between two. So the text goes into the keeper's memfd before the first piece goes out. Who
reads whole files, nearly everybody, costs nothing here.

A slot for each handle, by the low bits of its serial; the newest text has the slot, and a longer
one than fits is not kept. A checksum tells what a kill in the middle of writing has left.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import Final

from pylxcfs.fusefs import memory

_SLOTS: Final = 256
_SLOT: Final = 65536
#: Handle, length and checksum of the text behind it.
_HEADER: Final = struct.Struct("=QII")


class Survivors:
    """The texts in one memfd; none are kept before `use` says in which."""

    def __init__(self) -> None:
        self._fd = -1

    def use(self, fd: int) -> None:
        """Keep texts in this memfd, and find those of servers before."""
        self._fd = fd

    @property
    def are_kept(self) -> bool:
        """Whether who reads in pieces has a text here, as far as it fits."""
        return self._fd >= 0

    def keep(self, handle: int, text: bytes) -> None:
        """Write a text; one that does not fit is left out."""
        if self._fd < 0:
            return
        header = _HEADER.pack(handle, len(text), zlib.crc32(text))
        if len(header) + len(text) <= _SLOT:
            os.pwrite(self._fd, header + text, self._place(handle))

    def find(self, handle: int) -> bytes | None:
        """Return the text that was kept for a handle, by whatever server."""
        if self._fd < 0:
            return None
        place = self._place(handle)
        header = os.pread(self._fd, _HEADER.size, place)
        if len(header) < _HEADER.size:
            return None
        whose, length, checksum = _HEADER.unpack(header)
        if whose != handle or length > _SLOT:
            return None
        text = os.pread(self._fd, length, place + _HEADER.size)
        return text if len(text) == length and zlib.crc32(text) == checksum else None

    @staticmethod
    def _place(handle: int) -> int:
        return memory.SURVIVORS + handle % _SLOTS * _SLOT
