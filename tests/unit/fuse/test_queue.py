"""In which order requests are served where they pile up, and where they do not."""

from __future__ import annotations

import itertools
import os
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.fuse import queue, wire
from pylxcfs.fuse.queue import FairQueue
from tests.unit.fuse.device import Device

LOUD, QUIET, OTHER = 4026532180, 4026532181, 4026532182


def key(opcode: int, node: int, pid: int, word: int) -> int:
    """A pid is the number of its container here, and so is the handle in a RELEASE."""
    return word if opcode == wire.RELEASE else pid


class Served:
    """A queue over a device, with the buffer that its thread has."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.queue = FairQueue(device.fd, key)
        self.buffers = [bytearray(wire.BUFFER)]

    def one(self) -> int:
        """Let one more request be served; return its number."""
        length = self.queue.read(self.buffers)
        header = wire.IN_HEADER.unpack_from(self.buffers[0])
        assert length == header[0]
        return header[2]

    def many(self, count: int) -> list[int]:
        return [self.one() for _ in range(count)]

    def until_queuing(self, pid: int = LOUD) -> list[int]:
        """Let requests of one container pile up until they are queued; return those that wait."""
        asked: list[int] = []
        for _ in range(100):
            asked += [self.device.ask(pid=pid) for _ in range(2)]
            assert self.one() == asked.pop(0)
            if self.queue.queuing:
                return asked
        raise AssertionError("nothing is queued though requests wait")


@pytest.fixture
def served(device: Device) -> Served:
    return Served(device)


def ask_some(device: Device, pid: int, count: int) -> list[int]:
    return [device.ask(pid=pid) for _ in range(count)]


def test_nothing_is_queued_while_nobody_waits(device: Device, served: Served) -> None:
    for _ in range(3000):
        asked = device.ask()
        assert served.one() == asked
        assert not served.queue.queuing


def test_a_pile_of_one_container_holds_up_no_other(device: Device, served: Served) -> None:
    loud = served.until_queuing() + ask_some(device, LOUD, 20)
    quiet = device.ask(pid=QUIET)
    assert served.many(2) == [loud.pop(0), quiet]
    quiet, other = device.ask(pid=QUIET), device.ask(pid=OTHER)
    assert served.many(3) == [loud.pop(0), quiet, other]
    assert served.many(len(loud)) == loud


def test_a_pile_that_no_longer_grows_holds_up_no_other_either(
    device: Device, served: Served
) -> None:
    """As that of threads that wait for each other before they ask again."""
    loud = served.until_queuing() + ask_some(device, LOUD, 100)
    assert served.many(60) == loud[:60]
    quiet = device.ask(pid=QUIET)
    assert served.many(2) == [loud[60], quiet]


@given(pids=st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=60))
def test_each_container_is_served_in_its_own_order_and_none_twice_in_a_row(
    pids: list[int],
) -> None:
    device = Device()
    served = Served(device)
    served.many(len(served.until_queuing(9)))
    owner = {device.ask(pid=pid): pid for pid in pids}
    order = served.many(len(pids))
    assert sorted(order) == sorted(owner)
    for pid in set(pids):
        mine = [number for number in order if owner[number] == pid]
        assert mine == sorted(mine)
    left = Counter(pids)
    for number, following in itertools.pairwise(order):
        left[owner[number]] -= 1
        if owner[number] == owner[following]:
            assert not [pid for pid, count in left.items() if count and pid != owner[number]]
    device.close()


def test_releases_are_queued_by_their_handle(device: Device, served: Served) -> None:
    """They come from no process, and a node may be open in many containers."""
    waiting = served.until_queuing()
    loud = [
        device.ask(wire.RELEASE, 130, 0, wire.RELEASE_IN.pack(LOUD) + bytes(16)) for _ in range(20)
    ]
    quiet = device.ask(wire.RELEASE, 130, 0, wire.RELEASE_IN.pack(QUIET) + bytes(16))
    order = served.many(len(waiting) + 21)
    assert order.index(quiet) <= 3
    order.remove(quiet)
    assert [number for number in order if number in loud] == loud


def test_requests_are_taken_one_by_one_again_when_nothing_piles_up(
    device: Device, served: Served
) -> None:
    served.many(len(served.until_queuing()))
    for _ in range(100):
        asked = device.ask(pid=QUIET)
        assert served.one() == asked
    assert not served.queue.queuing


def test_many_containers_with_a_reader_each_are_checked_less_and_less(
    device: Device, served: Served
) -> None:
    """They are served in turn anyway, and queuing costs time."""
    pids = itertools.count(1)
    singly, lengths = 0, []
    device.ask(pid=next(pids))
    for _ in range(5000):
        device.ask(pid=next(pids))
        was_single = not served.queue.queuing
        served.one()
        if was_single:
            singly += 1
        elif not served.queue.queuing:
            lengths.append(singly)
            singly = 0
    assert lengths == sorted(lengths)
    assert lengths[-1] > 10 * lengths[0]


def test_no_more_requests_are_taken_than_fit(
    device: Device, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = served.until_queuing()
    monkeypatch.setattr(queue, "_MOST", 8 * (wire.IN_HEADER.size + 16))
    loud = waiting + ask_some(device, LOUD, 20)
    quiet = device.ask(pid=QUIET)
    order = served.many(len(loud) + 1)
    assert order.index(quiet) > len(loud) - 9
    order.remove(quiet)
    assert order == loud


def test_requests_without_an_answer_are_not_queued(device: Device, served: Served) -> None:
    waiting = served.until_queuing()
    for opcode in wire.UNANSWERED:
        device.ask(opcode, pid=0)
    asked = device.ask(pid=QUIET)
    assert asked in served.many(len(waiting) + 1)


def test_the_device_never_blocks_with_requests_taken(device: Device, served: Served) -> None:
    """A request that poll(2) announces is gone if its caller is killed before it is read."""
    waiting = served.until_queuing()
    assert not os.get_blocking(device.fd)
    assert served.many(len(waiting)) == waiting
    assert not os.get_blocking(device.fd)


def test_the_end_of_the_connection_is_passed_on(device: Device, served: Served) -> None:
    served.many(len(served.until_queuing()))
    os.close(device.end.detach())
    with pytest.raises(OSError, match="Bad file descriptor"):
        served.one()
