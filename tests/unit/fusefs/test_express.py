"""The express lane's thread: who answers what, and what it does not die of."""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
from collections.abc import Iterator
from typing import cast

import pytest

from pylxcfs.fusefs import wire
from pylxcfs.fusefs.express import Lane
from pylxcfs.fusefs.filesystem import Filesystem
from pylxcfs.fusefs.guard import Guard
from pylxcfs.fusefs.nodes import CACHED
from pylxcfs.fusefs.refusal import Refused
from pylxcfs.fusefs.turns import Turns
from tests.conftest import wait_until

STATFS = 17


class Unknown:
    """Nobody is known, and the texts of all odd nodes end soon."""

    def __init__(self) -> None:
        self.gone: list[tuple[int, int]] = []
        self.cleared = 0

    def clear(self) -> None:
        self.cleared += 1

    def open(self, node: int, pid: int, flags: int) -> int:
        return 0

    def text(self, handle: int) -> bytes | None:
        return {77: b"77", 78: b""}.get(handle)

    def close(self, node: int, handle: int) -> bool:
        self.gone.append((node, handle))
        return node % 2 == 1


class Slow:
    """A filesystem whose reads and opens wait for `go`."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.reopens = Unknown()
        self.triggers = None
        self.renderings = self
        self.renewed: list[int] = []

    def renew(self, node: int) -> None:
        self.renewed.append(node)

    def open(self, node: int, flags: int, uid: int, pid: int) -> tuple[int, int]:
        self.go.wait(30)
        return CACHED | 77, 0

    def release(self, node: int, handle: int) -> None:
        self.reopens.close(node, handle)

    def read(self, node: int, handle: int, offset: int, size: int, pid: int) -> bytes:
        self.go.wait(30)
        raise Refused(errno.ENXIO)

    def fill(self, node: int, handle: int, offset: int, size: int, pid: int) -> bytes:
        return b"page"


class Kernel:
    """The other end of /dev/fuse, and the lanes that read from it."""

    def __init__(self) -> None:
        self.end, self.device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.end.settimeout(10)
        self.lanes: list[tuple[Lane, int]] = []

    def lane(self, slow: Slow, device: int = -1, others: socket.socket | None = None) -> Lane:
        stop, stopping = os.pipe()
        if device < 0:
            device = self.device.fileno()
        lane = Lane(cast(Filesystem, slow), Guard(), device, others or self.end, stop, lambda: None)
        lane.start()
        self.lanes.append((lane, stopping))
        return lane

    def ask(self, opcode: int, unique: int) -> None:
        self.end.send(request(opcode, unique))

    def answer(self) -> tuple[int, int]:
        """Return (unique, errno) of the next answer."""
        _, error, unique = wire.OUT_HEADER.unpack(self.end.recv(4096))
        return unique, -error

    def close(self) -> None:
        for lane, stopping in self.lanes:
            os.close(stopping)
            lane.join(10)
            assert not lane.is_alive()


def request(
    opcode: int, unique: int, flags: int = wire.READ_LOCKOWNER, handle: int = 0, offset: int = 0
) -> bytes:
    body = wire.READ_IN.pack(handle, offset, 4096, flags) + bytes(16)
    size = wire.IN_HEADER.size + len(body)
    return wire.IN_HEADER.pack(size, opcode, unique, 1, 0, 0, 0, 0) + body


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = Kernel()
    with kernel.end, kernel.device:
        yield kernel
        kernel.close()


def test_a_text_that_ends_soon_is_renewed_once_its_reader_has_gone(kernel: Kernel) -> None:
    slow = Slow()
    kernel.lane(slow)
    for unique, (node, handle) in enumerate([(7, CACHED), (8, CACHED), (9, CACHED)], 1):
        body = wire.RELEASE_IN.pack(handle) + bytes(16)
        size = wire.IN_HEADER.size + len(body)
        header = wire.IN_HEADER.pack(size, wire.RELEASE, unique, node, 0, 0, 0, 0)
        kernel.end.send(header + body)
        assert kernel.answer() == (unique, 0)
    wait_until(lambda: slow.renewed == [7, 9], what="the odd ones to be renewed")
    assert slow.reopens.gone == [(7, CACHED), (8, CACHED), (9, CACHED)]
    kernel.end.settimeout(0.1)
    with pytest.raises(TimeoutError):  # each had one answer
        kernel.answer()


def test_a_request_that_came_back_cannot_be_disowned_and_the_next_is_answered(
    kernel: Kernel,
) -> None:
    slow = Slow()
    slow.go.set()
    lane = kernel.lane(slow)
    for unique in (7, 8, 9):
        kernel.ask(wire.READ, unique)
        assert kernel.answer() == (unique, errno.ENXIO)
        assert not lane.disown(unique)


def test_a_disowned_request_is_not_answered_and_its_thread_ends(kernel: Kernel) -> None:
    slow = Slow()
    lane = kernel.lane(slow)
    kernel.ask(wire.READ, 7)
    wait_until(lambda: lane.serving == 7, what="the request to be taken")
    assert not lane.disown(6)
    assert lane.disown(7)
    slow.go.set()
    lane.join(10)
    assert not lane.is_alive()
    kernel.end.setblocking(False)
    with pytest.raises(BlockingIOError):
        kernel.end.recv(1)


def test_the_next_thread_serves_what_its_predecessor_had_taken() -> None:
    """The watchdog gave that one up while many waited: none of them is left without an answer."""
    slow = Slow()
    kernel = Kernel()
    turns = Turns(kernel.device.fileno(), lambda pid: pid)
    lanes = [
        Lane(cast(Filesystem, slow), Guard(), kernel.device.fileno(), kernel.end, None, int, turns)
        for _ in range(2)
    ]
    with kernel.end, kernel.device:
        asked = set(range(1, turns.interval + 20))
        for unique in asked:
            kernel.ask(wire.ACCESS if unique < turns.interval + 2 else wire.READ, unique)
        lanes[0].start()
        wait_until(lambda: lanes[0].serving > turns.interval, what="a slow request to be taken")
        stuck = lanes[0].serving
        assert turns.are_kept
        assert lanes[0].disown(stuck)
        lanes[1].start()
        slow.go.set()
        assert {kernel.answer()[0] for _ in range(len(asked) - 1)} == asked - {stuck}
        lanes[1].leaving = True
        kernel.ask(wire.ACCESS, 1000)
        for lane in lanes:
            lane.join(10)
            assert not lane.is_alive()


def test_what_a_disowned_request_has_opened_is_closed(kernel: Kernel) -> None:
    """The watchdog's answer has another handle, so nobody else will."""
    slow = Slow()
    lane = kernel.lane(slow)
    kernel.ask(wire.OPEN, 7)
    wait_until(lambda: lane.serving == 7, what="the request to be taken")
    assert lane.disown(7)
    slow.go.set()
    lane.join(10)
    assert slow.reopens.gone == [(1, CACHED | 77)]
    assert slow.reopens.cleared  # of what was concluded for it long ago


def test_a_read_at_the_end_of_a_text_is_answered_at_once(kernel: Kernel) -> None:
    """But not before the end, and not one that fills a page."""
    slow = Slow()
    kernel.lane(slow)
    kernel.end.send(request(wire.READ, 7, wire.READ_LOCKOWNER, 77, 2))
    assert kernel.end.recv(4096) == wire.OUT_HEADER.pack(16, 0, 7)
    kernel.end.send(request(wire.READ, 8, 0, 77, 2))
    assert kernel.end.recv(4096)[wire.OUT_HEADER.size :] == b"page"
    slow.go.set()
    kernel.end.send(request(wire.READ, 9, wire.READ_LOCKOWNER, 77, 1))
    assert kernel.answer() == (9, errno.ENXIO)  # it was asked for
    kernel.end.send(request(wire.READ, 10, wire.READ_LOCKOWNER, 78))
    assert kernel.answer() == (10, errno.ENXIO)  # an empty text may be longer by now


def test_pages_are_filled_and_buffers_read(kernel: Kernel) -> None:
    """sendfile(2) fills a page through any handle; the flags of the READ tell."""
    kernel.lane(Slow())
    kernel.end.send(request(wire.READ, 7, flags=0))
    assert kernel.end.recv(4096)[wire.OUT_HEADER.size :] == b"page"


def test_a_request_that_is_neither_passed_on_nor_wanted_does_not_end_the_thread(
    kernel: Kernel,
) -> None:
    # pyfuse3 takes nothing, and the answer is refused: its reader was killed meanwhile.
    others, ended = socket.socketpair()
    ended.close()
    reading, asking = os.pipe()
    with others, os.fdopen(reading), os.fdopen(asking, "wb", buffering=0) as to:
        lane = kernel.lane(Slow(), reading, others)
        to.write(request(STATFS, 1))
        wait_until(lambda: not select.select([reading], [], [], 0)[0], what="it to be taken")
        to.write(request(STATFS, 2))
        wait_until(lambda: not select.select([reading], [], [], 0)[0], what="it to be taken")
        assert lane.is_alive()
        kernel.close()
        kernel.lanes.clear()
