"""In which order requests are served where they pile up, and where they do not."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Iterator

import pytest

from pylxcfs.fusefs import nodes, wire
from pylxcfs.fusefs.turns import Turns

LOUD, QUIET, OTHER = 4026532180, 4026532181, 4026532182


class Device:
    """The two ends of /dev/fuse. A pid is the number of its namespace here."""

    def __init__(self) -> None:
        self.kernel, self.end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.buffer = bytearray(65536)
        self._unique = 0

    def turns(self) -> Turns:
        return Turns(self.end.fileno(), lambda pid: pid)

    def ask(self, pid: int, opcode: int = wire.GETATTR, node: int = 1, word: int = 0) -> int:
        self._unique += 1
        body = wire.RELEASE_IN.pack(word) + bytes(self._unique % 7)
        size = wire.IN_HEADER.size + len(body)
        header = wire.IN_HEADER.pack(size, opcode, self._unique, node, 0, 0, pid, 0)
        self.kernel.send(header + body)
        return self._unique

    def served(self, turns: Turns) -> int:
        """Let one more request be served; return its number."""
        length = turns.next(self.buffer)
        header = wire.IN_HEADER.unpack_from(self.buffer)
        assert length == header[0]
        return header[2]

    def discard(self) -> None:
        """Serve what was asked for and not taken in turns."""
        with contextlib.suppress(BlockingIOError):
            while self.end.recv(4096, socket.MSG_DONTWAIT):
                pass


@pytest.fixture
def device() -> Iterator[Device]:
    device = Device()
    with device.kernel, device.end:
        yield device


def test_no_turns_are_kept_while_nobody_waits(device: Device) -> None:
    turns = device.turns()
    assert not turns.begin()
    assert not turns.are_kept
    assert os.get_blocking(device.end.fileno())


def test_a_pile_of_one_container_holds_up_no_other(device: Device) -> None:
    turns = device.turns()
    loud = [device.ask(LOUD) for _ in range(20)]
    quiet = device.ask(QUIET)
    assert turns.begin()
    assert device.served(turns) == loud[0]
    assert device.served(turns) == quiet
    quiet, other = device.ask(QUIET), device.ask(OTHER)
    assert [device.served(turns) for _ in range(3)] == [loud[1], quiet, other]
    assert [device.served(turns) for _ in range(18)] == loud[2:]


def test_releases_have_their_turn_with_their_container(device: Device) -> None:
    """They come from nobody, and a node may be open in other containers than its owner."""
    turns = device.turns()
    loud_pair, quiet_pair = nodes.pair((LOUD, 0)), nodes.pair((QUIET, 0))
    mine = nodes.node(loud_pair, 130)
    loud = [
        device.ask(0, wire.RELEASE, mine, nodes.handle(loud_pair, 0, serial))
        for serial in range(20)
    ]
    quiet = device.ask(0, wire.RELEASE, mine, nodes.handle(quiet_pair, nodes.STRANGER, 1))
    assert turns.begin()
    assert [device.served(turns) for _ in range(3)] == [loud[0], quiet, loud[1]]


def test_turns_end_when_nothing_has_piled_up_for_a_while(device: Device) -> None:
    turns = device.turns()
    seldom = turns.interval
    pile = [device.ask(LOUD) for _ in range(20)]
    assert turns.begin()
    assert [device.served(turns) for _ in pile] == pile
    served = 0
    while turns.are_kept:
        asked = device.ask(QUIET)
        if turns.next(device.buffer):
            assert wire.IN_HEADER.unpack_from(device.buffer)[2] == asked
            served += 1
    assert 0 < served < 100
    assert os.get_blocking(device.end.fileno())
    assert turns.interval == seldom


def test_many_containers_with_a_reader_each_are_looked_at_less_and_less(device: Device) -> None:
    turns = device.turns()
    intervals = [turns.interval]
    pids = itertools.count(1)
    for _ in range(10):
        device.ask(next(pids))
        assert turns.begin()
        while turns.next(device.buffer):
            device.ask(next(pids))
        device.discard()
        intervals.append(turns.interval)
    assert intervals == sorted(intervals)
    assert intervals[-1] > 10 * intervals[0]


def test_a_server_waits_though_the_one_before_was_killed_while_it_kept_turns(
    device: Device,
) -> None:
    os.set_blocking(device.end.fileno(), False)
    device.turns()
    assert os.get_blocking(device.end.fileno())


def test_no_more_requests_are_taken_than_fit(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = wire.IN_HEADER.size + wire.RELEASE_IN.size
    monkeypatch.setattr("pylxcfs.fusefs.turns._MOST", 8 * size)
    turns = device.turns()
    pile = [device.ask(LOUD) for _ in range(20)]
    quiet = device.ask(QUIET)
    assert turns.begin()
    # They are up to six bytes longer than that.
    order = [device.served(turns) for _ in range(21)]
    assert order.index(quiet) >= 13
    order.remove(quiet)
    assert order == pile


def test_a_pile_that_no_longer_grows_holds_up_no_other_either(device: Device) -> None:
    """As that of threads which wait for each other before they ask again."""
    turns = device.turns()
    loud = [device.ask(LOUD) for _ in range(100)]
    assert turns.begin()
    assert [device.served(turns) for _ in range(60)] == loud[:60]
    quiet = device.ask(QUIET)
    assert [device.served(turns) for _ in range(2)] == [loud[60], quiet]


def test_what_needs_no_answer_has_no_turn(device: Device) -> None:
    turns = device.turns()
    for opcode in (wire.FORGET, wire.BATCH_FORGET, wire.INTERRUPT):
        device.ask(0, opcode)
    asked = device.ask(QUIET)
    assert turns.begin()
    assert device.served(turns) == asked


def test_the_end_of_the_connection_is_said(device: Device) -> None:
    turns = device.turns()
    device.ask(LOUD)
    assert turns.begin()
    os.close(device.end.detach())
    with pytest.raises(OSError, match="Bad file descriptor"):
        turns.next(device.buffer)
