"""What sizes the kernel was told of cached nodes, for the next server.

A page that was asked for just before a server was killed is filled by the next one. Its reader
takes as much of it as the size says that it had been told before: a shorter text would leave it
with zeros at the end. So the next server lengthens its first text of a node to that size. The
table is in the keeper's memfd, and mapped: a size that stays the same, as nearly all do, costs a
comparison.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Final

from pylxcfs.fusefs import memory
from pylxcfs.units import ticks

#: Nodes, of which a container has eight. The others go without.
MOST: Final = 65536
#: Two words each: node, and size and start. The first pair is how many pairs were ever used, and
#: nothing.
_LENGTH: Final = (1 + MOST) * 16

#: The low bits of a second word are the size; those above, when its container has started, in
#: ticks since boot: the number in a node's id is another container's once that one has ended.
_SIZE_BITS: Final = 24
_SIZE: Final = (1 << _SIZE_BITS) - 1


class Sizes:
    """Node ids to sizes. Kept for the next server once `use` says where."""

    def __init__(self) -> None:
        self._use(mmap.mmap(-1, _LENGTH))

    def use(self, fd: int) -> None:
        """Keep sizes in this memfd, and find those that the server before has told."""
        self._use(memory.mapped(fd, memory.SIZES, _LENGTH))

    def _use(self, table: mmap.mmap) -> None:
        self._words = memoryview(table).cast("Q")
        self._slots: dict[int, int] = {}
        self._free: list[int] = []
        self._most = len(self._words)
        for slot in range(2, min(2 + 2 * self._words[0], self._most), 2):
            if self._words[slot]:
                self._slots[self._words[slot]] = slot
            else:
                self._free.append(slot)

    def get(self, node: int) -> int:
        """Return the size that the kernel was told of a node; 0 if none is known."""
        slot = self._slots.get(node)
        return 0 if slot is None else self._words[slot + 1] & _SIZE

    def is_of(self, node: int, started_ns: int) -> bool:
        """Whether a node's size, if one is known, is that of a container that started then."""
        slot = self._slots.get(node)
        return slot is None or self._words[slot + 1] >> _SIZE_BITS == ticks(started_ns)

    def told(self, node: int, size: int, started_ns: int) -> bool:
        """Note that the kernel is told this size now; return whether it was told another before.

        `started_ns`: when the container has started (CLOCK_BOOTTIME), 0 if there is none.
        """
        size |= ticks(started_ns) << _SIZE_BITS
        slot = self._slots.get(node)
        if slot is None:
            slot = self._new_slot()
            if slot is not None:
                self._slots[node] = slot
                self._words[slot + 1] = size
                self._words[slot] = node
            return False
        if self._words[slot + 1] == size:
            return False
        self._words[slot + 1] = size
        return True

    def drop(self, node: int) -> None:
        """Forget a node."""
        slot = self._slots.pop(node, None)
        if slot is not None:
            self._words[slot] = 0
            self._free.append(slot)

    def drop_unless(self, keep: Callable[[int], bool]) -> None:
        """Forget all nodes that `keep` does not say yes to."""
        for node in self.nodes():
            if not keep(node):
                self.drop(node)

    def nodes(self) -> list[int]:
        """Return all nodes of which a size is known."""
        return list(self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    def _new_slot(self) -> int | None:
        if self._free:
            return self._free.pop()
        slot = 2 + 2 * self._words[0]
        if slot >= self._most:
            return None
        self._words[0] += 1
        return slot
