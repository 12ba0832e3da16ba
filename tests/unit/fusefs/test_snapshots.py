"""Snapshots: shared for their life, told to the kernel as they are, gone with their container."""

from dataclasses import dataclass

import pytest

from pylxcfs.fusefs.snapshots import PAGE, STEP_NS, Snapshots
from pylxcfs.units import NS_PER_S
from pylxcfs.views.padding import Padding, blanks
from tests.unit.views.fakes import FakeContainer

TTL = 100
CONTAINER = FakeContainer(started_ns_=NS_PER_S)
PADDING = Padding(blanks)


@dataclass
class Clock:
    now: int = 1_000

    def __call__(self) -> int:
        return self.now


def test_a_snapshot_is_shared_until_its_life_ends() -> None:
    clock = Clock()
    snapshots = Snapshots(TTL, clock)
    kept = snapshots.keep(7, b"text\n", CONTAINER, None)
    clock.now += TTL - 1
    assert snapshots.alive(7) is kept
    clock.now += 1
    assert snapshots.alive(7) is None


def test_some_files_have_more_lives() -> None:
    clock = Clock()
    snapshots = Snapshots(TTL, clock)
    kept = snapshots.keep(7, b"text\n", CONTAINER, None, 10)
    clock.now += 10 * TTL - 1
    assert snapshots.alive(7) is kept
    clock.now += 1
    assert snapshots.alive(7) is None


def test_a_life_of_zero_keeps_nothing() -> None:
    snapshots = Snapshots(0, Clock())
    assert snapshots.keep(7, b"text\n", CONTAINER, None).data == b"text\n"
    assert snapshots.alive(7) is None
    assert len(snapshots) == 0


def test_a_shorter_text_is_lengthened_only_where_the_kernel_has_pages() -> None:
    snapshots = Snapshots(TTL, Clock())
    first = snapshots.keep(7, b"10.00 20.00\n", CONTAINER, PADDING)
    assert snapshots.keep(7, b"1.00 2.00\n", CONTAINER, PADDING).data == b"1.00 2.00\n"
    snapshots.show(7, first)
    assert snapshots.keep(7, b"1.00 2.00\n", CONTAINER, PADDING).data == b"1.00 2.00  \n"
    assert snapshots.keep(7, b"0-1\n", CONTAINER, None).data == b"0-1\n"


def test_a_text_has_room_to_grow_where_the_kernel_has_pages() -> None:
    clock = Clock()
    snapshots, roomy = Snapshots(TTL, clock), Padding(blanks, room=4)
    exact = snapshots.keep(7, b"1.00\n", CONTAINER, roomy)
    assert exact.data == b"1.00\n"
    first = snapshots.with_room(7, exact, roomy)
    assert first.data == b"1.00    \n"
    assert snapshots.alive(7) is first
    snapshots.show(7, first)
    assert snapshots.keep(7, b"10000.00\n", CONTAINER, roomy).data == b"10000.00\n"
    clock.now += TTL + STEP_NS + 1
    assert snapshots.keep(7, b"100000.00\n", CONTAINER, roomy).data == b"100000.00    \n"
    clock.now += STEP_NS + 1
    longer = b"1" * 79 + b"\n"
    assert len(snapshots.keep(7, longer, CONTAINER, roomy).data) == 90
    most = b"1" * (PAGE - 3) + b"\n"
    assert len(snapshots.keep(7, most, CONTAINER, roomy).data) == PAGE


def test_all_readers_get_the_old_text_while_its_size_grows() -> None:
    """Also those past the pages: else who mixes both would go back in time."""
    clock = Clock()
    snapshots = Snapshots(TTL, clock)
    first = snapshots.keep(7, b"9.99\n", CONTAINER, None)
    snapshots.show(7, first)
    step = snapshots.keep(7, b"10.00\n", CONTAINER, None)
    assert (step.data, step.size) == (b"9.99\n", 6)
    assert snapshots.alive(7) is step
    snapshots.show(7, step)
    clock.now += STEP_NS
    assert snapshots.keep(7, b"10.05\n", CONTAINER, None).data == b"10.05\n"


def test_where_there_is_no_room_to_have_the_text_is_as_it_is() -> None:
    snapshots = Snapshots(TTL, Clock())
    exact = snapshots.keep(7, b"0-3\n", CONTAINER, None)
    assert snapshots.with_room(7, exact, None) is exact
    assert snapshots.with_room(7, exact, PADDING) is exact


def test_a_text_that_is_shown_once_more_keeps_what_was_read_of_it_where_it_is() -> None:
    snapshots = Snapshots(TTL, Clock())
    first = snapshots.keep(7, b"1.00\n", CONTAINER, PADDING)
    assert snapshots.again(7, first) is first
    snapshots.show(7, snapshots.keep(7, b"10.00 20.00\n", CONTAINER, PADDING))
    again = snapshots.again(7, first)
    assert (again.data, again.size) == (b"1.00\n", 12)
    assert again.part(0, 16) == b"1.00\n" + b"\n" * 11
    snapshots.show(7, again)
    assert snapshots.again(7, first) is again


def test_a_text_that_stays_the_same_keeps_its_mtime(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(1, 10))
    monkeypatch.setattr("time.time_ns", lambda: next(times))
    snapshots = Snapshots(TTL, Clock())
    first = snapshots.keep(7, b"same\n", CONTAINER, PADDING)
    again = snapshots.keep(7, b"same\n", CONTAINER, PADDING)
    assert again.mtime_ns != first.mtime_ns
    first = again
    snapshots.show(7, first)
    assert snapshots.keep(7, b"same\n", CONTAINER, PADDING).mtime_ns == first.mtime_ns
    assert snapshots.keep(7, b"else\n", CONTAINER, PADDING).mtime_ns != first.mtime_ns
    assert snapshots.keep(7, b"same\n", "another", PADDING).mtime_ns != first.mtime_ns


def test_a_text_that_comes_back_or_has_been_kept_for_long_gets_a_new_mtime(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1 << 40]
    monkeypatch.setattr("time.time_ns", lambda: now[0])
    snapshots = Snapshots(TTL, Clock())

    def keep(text: bytes) -> int:
        now[0] += 1000
        return snapshots.keep(7, text, CONTAINER, PADDING).mtime_ns

    first = snapshots.keep(7, b"same\n", CONTAINER, PADDING)
    snapshots.show(7, first)
    assert keep(b"same\n") == first.mtime_ns
    # Never shown, but its page may be there.
    keep(b"else\n")
    assert keep(b"same\n") != first.mtime_ns
    assert keep(b"same\n") != first.mtime_ns
    shown = snapshots.alive(7)
    assert shown is not None
    snapshots.show(7, shown)
    assert keep(b"same\n") == shown.mtime_ns
    now[0] += 2_000_000_000
    assert keep(b"same\n") == now[0]


def test_what_another_container_left_is_not_this_ones() -> None:
    clock = Clock()
    snapshots = Snapshots(TTL, clock)
    other = FakeContainer(started_ns_=2 * NS_PER_S)
    snapshots.show(7, snapshots.keep(7, b"text\n", CONTAINER, None))
    assert snapshots.belongs(7, CONTAINER)
    assert not snapshots.belongs(7, other)
    clock.now += 60 * NS_PER_S
    snapshots.sweep(lambda node: True)  # the text goes, its size does not
    assert snapshots.shown(7) is None
    assert snapshots.belongs(7, CONTAINER)
    assert not snapshots.belongs(7, other)
    snapshots.drop(7)
    assert snapshots.belongs(7, other)
    assert not snapshots.has(7)


def test_how_long_a_text_is_is_known_once_there_is_one() -> None:
    snapshots = Snapshots(TTL, Clock())
    assert snapshots.length(7) is None
    snapshots.keep(7, b"x" * PAGE, CONTAINER, None)
    assert snapshots.length(7) == PAGE


def test_a_sweep_drops_the_old_and_the_ended() -> None:
    clock = Clock()
    snapshots = Snapshots(TTL, clock)
    for node in (7, 8):
        snapshots.show(node, snapshots.keep(node, b"text\n", CONTAINER, None))
    snapshots.sweep(lambda node: node == 7)
    assert snapshots.shown(7) is not None
    assert snapshots.shown(8) is None
    clock.now += 60 * 1_000_000_000
    snapshots.sweep(lambda node: True)
    assert len(snapshots) == 0


def test_a_text_is_as_long_as_what_the_server_before_had_told(memfd: int) -> None:
    clock = Clock()
    before, snapshots = Snapshots(TTL, clock), Snapshots(TTL, clock)
    before.recover(memfd)
    before.show(7, before.keep(7, b"10.00 20.00\n", None, PADDING))
    snapshots.recover(memfd)
    assert snapshots.is_shown(7)
    snapshots.sweep(lambda node: False)  # has not asked yet
    assert snapshots.keep(7, b"1.00 2.00\n", None, PADDING).data == b"1.00 2.00  \n"
    clock.now += 61 * 1_000_000_000
    snapshots.sweep(lambda node: True)
    assert snapshots.is_shown(7)
    snapshots.sweep(lambda node: False)
    assert not snapshots.is_shown(7)


def test_another_size_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshots = Snapshots(TTL, Clock())
    resized = []
    snapshots.on_resized = lambda: resized.append(1)
    for text, number in ((b"text\n", 0), (b"else\n", 0), (b"longer\n", 1), (b"short\n", 1)):
        snapshots.show(7, snapshots.keep(7, text, None, PADDING))
        assert len(resized) == number


def test_a_step_counts_from_when_the_kernel_is_told_of_it() -> None:
    """It may have been made for readers past the pages long before."""
    clock = Clock()
    snapshots = Snapshots(TTL, clock)
    snapshots.show(7, snapshots.keep(7, b"9.99\n", CONTAINER, None))
    made = snapshots.keep(7, b"10.00\n", CONTAINER, None)
    clock.now += STEP_NS - 1
    snapshots.show(7, made)
    assert made.settles_ns == made.expires_ns == clock.now + STEP_NS
    clock.now += 1
    snapshots.show(7, made)
    assert made.settles_ns == clock.now - 1 + STEP_NS


def test_a_rendering_is_a_step_away_if_the_kernel_was_told_of_the_old_text_since() -> None:
    clock = Clock()
    snapshots = Snapshots(TTL, clock)
    first = snapshots.keep(7, b"9.99\n", CONTAINER, None)
    snapshots.show(7, first)
    clock.now += TTL + STEP_NS + 1
    wanted = snapshots.keep(7, b"10.00\n", CONTAINER, None)
    assert wanted.data == b"10.00\n"
    snapshots.show(7, first)
    step = snapshots.towards(7, wanted)
    assert (step.data, step.size) == (b"9.99\n", 6)
    assert snapshots.alive(7) is step


def test_a_text_that_is_shown_once_more_ends_no_step() -> None:
    clock = Clock()
    snapshots = Snapshots(TTL, clock)
    older = snapshots.keep(7, b"9.98\n", CONTAINER, None)
    snapshots.show(7, older)
    snapshots.show(7, snapshots.keep(7, b"9.99\n", CONTAINER, None))
    snapshots.show(7, snapshots.keep(7, b"10.00\n", CONTAINER, None))
    again = snapshots.again(7, older)
    assert (again.data, again.size) == (b"9.98\n", 6)
    snapshots.show(7, again)
    assert snapshots.keep(7, b"10.01\n", CONTAINER, None) is again
    clock.now += STEP_NS
    assert snapshots.keep(7, b"10.01\n", CONTAINER, None).data == b"10.01\n"


def test_a_page_is_kept_only_while_it_is_not_old() -> None:
    """Who sends or maps a file never asks how old its page is."""
    clock = Clock()
    snapshots = Snapshots(TTL, clock)
    assert not snapshots.is_fresh(7)
    snapshots.show(7, snapshots.keep(7, b"9.99\n", CONTAINER, None))
    clock.now += TTL
    assert snapshots.is_fresh(7)
    clock.now += 10**9
    assert not snapshots.is_fresh(7)
