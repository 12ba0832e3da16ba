"""Readers of the world of kit.py, which ask and fill pages as the kernel does for them."""

from __future__ import annotations

import os

from tests.unit.fusefs.kit import ME, A, World

#: Threads of container A that nobody knows.
ONE, OTHER, THIRD = ME, 31, 32
TEXT = b"text of A\n"


class Reader:
    """An open handle, which asks as the kernel does for each read(2) of it."""

    def __init__(self, world: World, tid: int) -> None:
        self.world = world
        self.tid = tid
        self.node = world.node(A)
        self.handle, self.flags = world.fs.open(self.node, os.O_RDONLY, 0, tid)

    def asks(self, size: int, offset: int | None = 0) -> tuple[bytes, int]:
        """Return the bytes it gets, and for how long the kernel asks no more."""
        self.world.people.readings[self.tid] = (size, offset)
        attributes = self.world.fs.attributes(self.node, self.handle, self.tid)
        page = self.fills()
        del self.world.people.readings[self.tid]
        end = min(attributes.size, (offset or 0) + size)
        return page[offset or 0 : end], attributes.valid_ns

    def fills(self) -> bytes:
        """Return the page that the kernel gets for it."""
        return self.world.fs.fill(self.node, self.handle, 0, 4096, self.tid)

    def close(self) -> None:
        self.world.fs.release(self.node, self.handle)


def later(world: World, text: bytes, by_ns: int = 100) -> None:
    """Let time pass, and the view say something else."""
    world.clock[0] += by_ns
    world.texts[A] = text


def make_known(world: World, tid: int) -> None:
    """Let a thread take the file whole, twice."""
    for _ in range(2):
        reader = Reader(world, tid)
        reader.asks(4096)
        reader.close()
