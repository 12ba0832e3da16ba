"""What the next server has to know of newcomers: who has which node open, and reads which text.

A reader in pieces must get all of them from one text, also when the server is killed between two;
and until it has asked again, its node may not show another. So each newcomer (newcomers.py) has
a slot in the keeper's memfd, from before its OPEN is answered until it has settled or is closed.
The memory is mapped: a slot costs no system call. A checksum tells what a kill in the middle of
writing has left; nobody was told of that yet.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from pylxcfs.fusefs import memory
from pylxcfs.fusefs.snapshots import PAGE

SLOTS: Final = 1024
#: An entry's fields, with the text's length for the text; and the checksum of all that and of the
#: text. All headers come first, all texts behind them, so that looking for what a server has left
#: touches, and so takes, no memory for texts.
_FIELDS: Final = struct.Struct("=QQQ8xQQQ")
_CHECKSUM: Final = struct.Struct("=Q")
_HEADER: Final = _FIELDS.size + _CHECKSUM.size
_TEXTS: Final = SLOTS * _HEADER
_LENGTH: Final = _TEXTS + SLOTS * PAGE
_EMPTY: Final = bytes(_FIELDS.size)


class Entry(NamedTuple):
    """One newcomer; `text` is empty until it has begun to read."""

    handle: int
    node: int
    tid: int
    #: The text's.
    mtime_ns: int
    #: When the container started.
    origin_ns: int
    text: bytes


class Register:
    """The newcomers in one memfd; none are kept before `use` says in which."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None
        self._slots: dict[int, int] = {}
        self._free = list(range(SLOTS))

    def use(self, fd: int) -> None:
        """Keep newcomers in this memfd, and find those of the server before."""
        self._memory = memory.mapped(fd, memory.REGISTER, _LENGTH)
        for slot in range(SLOTS):
            entry = self._read(slot)
            if entry is not None:
                self._slots[entry.handle] = slot
                self._free.remove(slot)

    def __len__(self) -> int:
        return len(self._slots)

    def has_room(self) -> bool:
        """Whether one more can be kept."""
        return bool(self._free)

    def entries(self) -> Iterator[Entry]:
        """Return all that are kept."""
        for slot in list(self._slots.values()):
            entry = self._read(slot)
            if entry is not None:
                yield entry

    def keep(self, entry: Entry) -> None:
        """Write what is known of a handle; left out if there is no room, or the text is long."""
        if self._memory is None or len(entry.text) > PAGE:
            return
        slot = self._slots.get(entry.handle)
        if slot is None:
            if not self._free:
                return
            slot = self._slots[entry.handle] = self._free.pop()
        *numbers, text = entry
        fields = _FIELDS.pack(*numbers, len(text))
        checksum = _CHECKSUM.pack(zlib.crc32(text, zlib.crc32(fields)))
        at, text_at = slot * _HEADER, _TEXTS + slot * PAGE
        self._memory[text_at : text_at + len(text)] = text
        self._memory[at : at + _HEADER] = fields + checksum

    def drop(self, handle: int) -> None:
        """Forget a handle."""
        slot = self._slots.pop(handle, None)
        if slot is None or self._memory is None:
            return
        self._memory[slot * _HEADER : slot * _HEADER + _FIELDS.size] = _EMPTY
        self._free.append(slot)

    def _read(self, slot: int) -> Entry | None:
        assert self._memory is not None
        at, text_at = slot * _HEADER, _TEXTS + slot * PAGE
        fields = self._memory[at : at + _FIELDS.size]
        if fields == _EMPTY:
            return None
        *numbers, length = _FIELDS.unpack(fields)
        (checksum,) = _CHECKSUM.unpack_from(self._memory, at + _FIELDS.size)
        text = self._memory[text_at : text_at + min(length, PAGE)]
        if zlib.crc32(text, zlib.crc32(fields)) != checksum:
            return None
        return Entry._make((*numbers, text))
