"""What outlives a server: texts by number, and the epoch of each owner.

Both are in the memfd of the connection (memory.py), behind the keeper's page. A server that takes
over goes on with the texts that the kernel was told of: sizes stay true, and a reader in the middle
of a text gets the rest of it.

    4096            u64 epoch by pid namespace: STORE + 8 * offset of its number
    16 MiB + 4096   slots of 1 MiB: key, length, checksum, stamp, text

Only pages that are written take memory. A checksum tells what a kill in the middle of writing left.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from typing import Final

from pylxcfs.fuse.memory import STORE

_EPOCH: Final = struct.Struct("=Q")
_EPOCHS: Final = 16 << 20

_SLOTS: Final = 16384
_SLOT: Final = 1 << 20
_FIRST: Final = STORE + _EPOCHS
#: key (0: free), stamp, length, checksum of key, stamp and text.
_HEADER: Final = struct.Struct("=QQII")
_KEY_AND_STAMP: Final = struct.Struct("=QQ")
_FREE: Final = _EPOCH.pack(0)
#: The longest text that is kept.
LONGEST: Final = _SLOT - _HEADER.size


class Store:
    """The servers' part of one memfd. One thread at a time writes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._slots: dict[int, int] = {}
        self._free = list(range(_SLOTS - 1, -1, -1))

    def load(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield (key, stamp, text) of what earlier servers have put; call it first, once."""
        used: set[int] = set()
        for slot, header in self._headers():
            key, stamp, length, checksum = _HEADER.unpack(header)
            if not key or key in self._slots or length > LONGEST:
                continue
            text = os.pread(self._fd, length, self._place(slot) + _HEADER.size)
            if len(text) == length and _checksum(key, stamp, text) == checksum:
                self._slots[key] = slot
                used.add(slot)
                yield key, stamp, text
        self._free = [slot for slot in self._free if slot not in used]

    def put(self, key: int, stamp: int, text: bytes) -> None:
        """Keep a text and a number with it; leave out one that is too long, or one too many."""
        slot = self._slots.get(key)
        if len(text) > LONGEST:
            self.drop(key)
            return
        if slot is None:
            if not self._free:
                return
            slot = self._slots[key] = self._free.pop()
        header = _HEADER.pack(key, stamp, len(text), _checksum(key, stamp, text))
        os.pwrite(self._fd, header + text, self._place(slot))

    def drop(self, key: int) -> None:
        """Forget a text."""
        slot = self._slots.pop(key, None)
        if slot is not None:
            os.pwrite(self._fd, _FREE, self._place(slot))
            self._free.append(slot)

    def epoch(self, offset: int) -> int:
        """Return the epoch of a pid namespace, by the offset of nodes.py; 0 if none was set."""
        data = os.pread(self._fd, _EPOCH.size, STORE + _EPOCH.size * offset)
        return int.from_bytes(data, "little") if len(data) == _EPOCH.size else 0

    def set_epoch(self, offset: int, epoch: int) -> None:
        """Remember the epoch of the nodes that the kernel has of a pid namespace."""
        os.pwrite(self._fd, epoch.to_bytes(_EPOCH.size, "little"), STORE + _EPOCH.size * offset)

    def _headers(self) -> Iterator[tuple[int, bytes]]:
        position = _FIRST
        while True:
            try:
                position = os.lseek(self._fd, position, os.SEEK_DATA)
            except OSError:
                return  # no data behind this
            slot = (position - _FIRST) // _SLOT
            if slot >= _SLOTS:
                return
            header = os.pread(self._fd, _HEADER.size, self._place(slot))
            if len(header) == _HEADER.size:
                yield slot, header
            position = self._place(slot + 1)

    @staticmethod
    def _place(slot: int) -> int:
        return _FIRST + slot * _SLOT


def _checksum(key: int, stamp: int, text: bytes) -> int:
    return zlib.crc32(text, zlib.crc32(_KEY_AND_STAMP.pack(key, stamp)))
