"""What is cached: for whom, for how long, and when it has to go."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable

import pytest

from pylxcfs.fusefs import nodes
from pylxcfs.fusefs.callers import _MOMENT_NS
from pylxcfs.fusefs.wire import FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE
from tests.unit.fusefs.kit import ME, A, B, World
from tests.unit.views.fakes import FakeContainer


def test_a_thread_that_reads_whole_files_gets_the_cache(world: World) -> None:
    node = world.node(A)
    world.read_whole(node, ME)
    world.read_whole(node, ME)
    handle, flags = world.fs.open(node, os.O_RDONLY, 0, ME)
    assert flags == 0  # no pages of the kernel's are trusted yet
    attributes = world.fs.attributes(node, handle, ME)
    assert (attributes.size, attributes.valid_ns) == (len(b"text of A\n"), 100)
    assert world.fs.reopens.open(node, ME, os.O_RDONLY) == 0  # has to be looked at once more
    assert world.fs.open(node, os.O_RDONLY, 0, ME)[1] == FOPEN_KEEP_CACHE
    assert world.fs.reopens.open(node, ME, os.O_RDONLY)
    assert world.fs.reopens.open(node, ME, os.O_RDWR) == 0
    assert world.fs.reopens.open(world.node(B), ME, os.O_RDONLY) == 0
    assert world.fs.reopens.open(node, 20, os.O_RDONLY) == 0


def test_o_direct_goes_past_the_cache(world: World) -> None:
    """The kernel would pass on what is behind the text, too."""
    node = world.node(A)
    world.make_kept(node)
    assert world.fs.open(node, os.O_RDONLY | os.O_DIRECT, 0, ME)[1] == FOPEN_DIRECT_IO
    assert world.fs.reopens.open(node, ME, os.O_RDONLY)
    assert not world.fs.reopens.open(node, ME, os.O_RDONLY | os.O_DIRECT)


def test_what_ends_or_changes_takes_the_short_way_from_a_known_thread(world: World) -> None:
    node = world.node(A)
    changes: list[Callable[[], object]] = [
        world.fs.changed,
        world.fs.sweep,
        world.fs.callers.on_end,
        lambda: world.fs.readers.saw_piece(ME, nodes.FILES),
        lambda: world.fs.open(node, os.O_RDONLY, 0, 20),
    ]
    for change in changes:
        world.make_kept(node)
        assert world.fs.reopens.open(node, ME, os.O_RDONLY)
        change()
        assert world.fs.reopens.open(node, ME, os.O_RDONLY) == 0


@pytest.mark.parametrize("what", ["clear", "forget"])
def test_what_is_forgotten_by_another_thread_in_between_is_not_found_again(
    world: World, what: str
) -> None:
    node, reopens = world.node(A), world.fs.reopens

    class Interrupted(dict[int, tuple[int, int, int]]):
        def clear(self) -> None:
            super().clear()
            reopens.open(node, ME, os.O_RDONLY)

    world.make_kept(node)
    reopens._last = Interrupted()
    assert reopens.open(node, ME, os.O_RDONLY)
    if what == "clear":
        reopens.clear()
    else:
        reopens.forget(ME)
    assert not reopens.open(node, ME, os.O_RDONLY)


def test_a_serial_that_is_still_open_is_not_given_away_in_short(world: World) -> None:
    node, reopens = world.node(A), world.fs.reopens
    handle = world.make_kept(node)
    reopens._serials = itertools.chain([handle & nodes.SERIAL_MASK], reopens._serials)
    assert not reopens.open(node, ME, os.O_RDONLY)
    assert reopens.open(node, ME, os.O_RDONLY)


def test_a_cached_handle_that_was_given_o_direct_later_leaves_no_text(world: World) -> None:
    """By fcntl(2): its reads come here, and its RELEASE takes the short way."""
    node, reopens, handles = world.node(A), world.fs.reopens, world.fs._handles
    for close in (reopens.close, world.fs.release):
        world.texts[A] = b"text of A\n"
        world.fs.changed()
        world.make_kept(node)
        before = len(handles)
        handle = reopens.open(node, ME, os.O_RDONLY)
        assert world.fs.read(node, handle, 0, 5, ME) == b"text "
        world.texts[A] = b"more of A\n"
        assert world.fs.read(node, handle, 5, 5, ME) == b"of A\n"
        close(node, handle)
        assert len(handles) == before
        assert not reopens.with_text


def test_a_text_may_be_made_anew_in_the_last_part_of_its_life(world: World) -> None:
    node, renderings, reopens = world.node(A), world.fs.renderings, world.fs.reopens
    world.make_kept(node)

    def closes_late() -> bool:
        handle = reopens.open(node, ME, os.O_RDONLY)
        late = reopens.close(node, handle)
        assert not reopens.close(node, handle)  # once is enough
        return late

    for age, soon in [(0, False), (80, False), (90, True), (100, False), (90, True)]:
        world.clock[0] = age
        assert closes_late() == soon
    world.texts[A] = b"more of A\n"
    renderings.renew(node)
    assert not closes_late()
    text = world.fs.snapshots.alive(node)
    assert text is not None
    assert text.data == b"more of A\n"
    del world.people.containers[A, 0]
    world.clock[0] = 185
    renderings.renew(node)  # of one that has ended: nobody is looked for
    assert closes_late()


def test_pages_and_their_size_come_from_one_snapshot(world: World) -> None:
    node = world.node(A)
    world.make_known(node)
    handle, _ = world.fs.open(node, os.O_RDONLY, 0, ME)
    first = world.fs.attributes(node, handle, ME)
    world.texts[A] = b"newer\n"
    world.clock[0] = 150
    page = world.fs.fill(node, handle, 0, 4096, ME)
    assert page[: first.size] == b"text of A\n"  # as it was told
    second = world.fs.attributes(node, handle, ME)
    assert second.mtime_ns != first.mtime_ns
    assert second.size == first.size
    assert world.fs.fill(node, handle, 0, 4096, ME)[: second.size] == b"newer    \n"


def test_a_stranger_on_a_node_keeps_its_owner_from_the_cache(world: World) -> None:
    node = world.node(A)
    world.make_known(node)
    cached, _ = world.fs.open(node, os.O_RDONLY, 0, ME)
    world.fs.attributes(node, cached, ME)
    told: list[int] = []
    world.fs.forget_attributes = told.append
    stranger, _ = world.fs.open(node, os.O_RDONLY, 0, 20)
    assert world.fs.open(node, os.O_RDONLY, 0, ME)[1] == FOPEN_DIRECT_IO
    assert world.fs.attributes(node, cached, ME).valid_ns == 0
    assert told == [node]
    world.fs.release(node, stranger)
    world.read_whole(node, ME)
    assert world.fs.open(node, os.O_RDONLY, 0, ME)[1] == FOPEN_DIRECT_IO
    assert world.fs.attributes(node, cached, ME).valid_ns == 0
    assert world.fs.attributes(node, 0, ME).valid_ns == 0


def test_a_namespace_number_that_comes_back_does_not_keep_the_old_pages(world: World) -> None:
    node = world.node(A)
    world.make_known(node)
    handle, _ = world.fs.open(node, os.O_RDONLY, 0, ME)
    world.fs.attributes(node, handle, ME)
    world.people.end(A)
    world.people.containers[A, 0] = FakeContainer(started_ns_=B)
    assert world.read_whole(node, ME)[0] == b"text of B\n"


def test_who_has_ended_is_asked_now_and_then(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop hears of it anyway, and asking takes a system call."""
    node, callers = world.node(A), world.fs.callers
    world.make_kept(node)
    asked = []
    monkeypatch.setattr(callers, "refresh", lambda: asked.append(1))
    assert world.fs.reopens.open(node, ME, os.O_RDONLY)
    assert not asked
    world.clock[0] += _MOMENT_NS + 1  # of the test's clock, and of the real one
    callers._refreshed_ns -= _MOMENT_NS + 1
    handle, _ = world.fs.open(node, os.O_RDONLY, 0, ME)
    world.fs.attributes(node, handle, ME)
    assert world.fs.reopens.open(node, ME, os.O_RDONLY)
    assert asked
