"""What a server that takes over knows of the newcomers that the one before it had."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pylxcfs.fusefs import newcomers
from pylxcfs.fusefs.newcomers import Newcomers
from pylxcfs.fusefs.reopens import Reopens
from pylxcfs.fusefs.wire import FOPEN_DIRECT_IO
from pylxcfs.units import NS_PER_S
from tests.unit.fusefs.kit import A, World
from tests.unit.fusefs.readers import ONE, OTHER, TEXT, THIRD, Reader, later, make_known
from tests.unit.views.fakes import FakeContainer


@pytest.fixture
def kept(told: World, memfd: int) -> World:
    told.fs.recover(memfd)
    return told


def next_server(world: World, memfd: int) -> None:
    """Let a new server take over that knows nothing but what is in the memfd."""
    newcomers = world.fs.pages.newcomers = Newcomers()
    snapshots = world.fs.snapshots
    world.fs.callers.forget_found()
    handles, serials = world.fs._handles, itertools.count()
    world.fs.reopens = Reopens(world.fs.callers, newcomers, snapshots, handles, serials)
    for table in (snapshots.recent, snapshots._shown):
        table.clear()
    world.fs.recover(memfd)


@contextmanager
def unheard_of(world: World) -> Iterator[None]:
    """Let the server not have heard of any container yet."""
    containers = dict(world.people.containers)
    world.people.containers.clear()
    yield
    world.people.containers.update(containers)


def test_a_bound_does_not_hold_for_who_has_the_file_open_since_before(
    kept: World, memfd: int
) -> None:
    """Whoever asks how long it is and reads would get newlines up to the bound."""
    reader = Reader(kept, ONE)
    reader.asks(4096)
    next_server(kept, memfd)
    with unheard_of(kept):
        assert kept.fs.attributes(reader.node, 0, ONE).valid_ns == 0
    assert reader.asks(4096)[0] == TEXT


def test_a_page_that_is_waited_for_since_before_has_no_zeros_up_to_a_bound(
    kept: World, memfd: int
) -> None:
    """Somebody asks first how long it is, and the kernel heeds no short answer any more."""
    reader = Reader(kept, ONE)
    reader.asks(4096)
    next_server(kept, memfd)
    with unheard_of(kept):
        bound = kept.fs.attributes(reader.node, 0, OTHER)
    assert (bound.size, bound.valid_ns) == (4096, 0)
    assert reader.fills() == TEXT + b"\n" * (4096 - len(TEXT))
    assert reader.asks(4096)[0] == TEXT


def test_where_handles_from_before_may_be_open_nobody_is_a_newcomer(
    kept: World, memfd: int
) -> None:
    """No server knows of those before they ask."""
    make_known(kept, OTHER)
    old = Reader(kept, OTHER)
    old.asks(4096)
    next_server(kept, memfd)
    assert Reader(kept, ONE).flags == FOPEN_DIRECT_IO
    later(kept, b"more of A\n")
    assert old.asks(4096) == (b"more of A\n", 100)


def test_the_next_server_goes_on_with_the_text(kept: World, memfd: int) -> None:
    pieces = Reader(kept, ONE)
    assert pieces.asks(5)[0] == TEXT[:5]
    next_server(kept, memfd)
    later(kept, b"more of A\n")
    assert pieces.asks(5, 5) == (TEXT[5:], 0)
    assert pieces.asks(5, 10) == (b"", 0)
    assert pieces.asks(5) == (b"more ", 0)


def test_the_next_server_goes_on_with_the_text_that_was_heeded(kept: World, memfd: int) -> None:
    pieces = Reader(kept, ONE)
    pieces.asks(5)
    later(kept, b"MORE OF A\n")
    kept.people.readings[ONE] = (5, 0)
    kept.fs.attributes(pieces.node, pieces.handle, ONE)
    pieces.asks(2, 5)
    next_server(kept, memfd)
    assert pieces.asks(5, 7)[0] == TEXT[7:]


def test_the_next_server_knows_who_has_not_begun(kept: World, memfd: int) -> None:
    pieces = Reader(kept, ONE)
    next_server(kept, memfd)
    assert Reader(kept, OTHER).flags == FOPEN_DIRECT_IO
    assert pieces.asks(5) == (TEXT[:5], 0)


def test_the_next_server_knows_nothing_of_who_has_settled_or_closed(
    kept: World, memfd: int
) -> None:
    closed = Reader(kept, ONE)
    closed.close()
    whole = Reader(kept, OTHER)
    whole.asks(4096)
    next_server(kept, memfd)
    assert kept.node(A) not in kept.fs.pages.newcomers
    assert whole.asks(4096) == (TEXT, 100)
    assert Reader(kept, THIRD).flags == FOPEN_DIRECT_IO  # since that one has asked


def test_the_next_server_tells_no_smaller_size(kept: World, memfd: int) -> None:
    pieces = Reader(kept, ONE)
    pieces.asks(4)
    later(kept, b"a much longer text of A\n")
    pieces.asks(4)
    size = kept.fs.attributes(pieces.node, 0, THIRD).size
    assert size >= len(b"a much longer text of A\n")
    next_server(kept, memfd)
    assert kept.fs.attributes(pieces.node, 0, THIRD).size == size
    assert pieces.asks(100, 4)[0] == (TEXT + b"\n" * size)[4:size]


def test_who_was_never_told_that_it_has_a_file_open_is_forgotten(
    kept: World, memfd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newcomers, "_UNHEARD_NS", 1000)
    reader = Reader(kept, OTHER)
    for _ in range(2):
        next_server(kept, memfd)
        kept.clock[0] += 1001
        reader.asks(5)
        kept.fs.sweep()
        assert len(kept.fs.pages.newcomers.register) == 1
    next_server(kept, memfd)
    kept.clock[0] += 1001
    kept.fs.sweep()
    assert len(kept.fs.pages.newcomers.register) == 0
    assert not kept.fs.pages.newcomers.has(reader.handle)


def test_the_next_server_shows_no_text_of_a_container_before(kept: World, memfd: int) -> None:
    pieces = Reader(kept, ONE)
    pieces.asks(5)
    kept.people.containers[A, 0] = type(kept.people.containers[A, 0])(started_ns_=A + NS_PER_S)
    kept.texts[A + NS_PER_S] = b"more of A\n"
    next_server(kept, memfd)
    assert kept.read_whole(kept.node(A), OTHER)[0] == b"more of A\n"


def test_the_next_server_renders_nothing_for_a_new_container_that_has_not_opened_anything(
    kept: World, memfd: int
) -> None:
    """The size that it finds is one of a container before with the same number."""
    reader = Reader(kept, ONE)
    reader.asks(4096)
    reader.close()
    next_server(kept, memfd)
    kept.people.end(A)
    kept.fs.sweep()
    kept.people.containers[A, 0] = FakeContainer(started_ns_=A + NS_PER_S)
    kept.texts[A + NS_PER_S] = b"the host's, as it has no limits yet\n"
    assert kept.fs.attributes(kept.node(A), 0, ONE).size == 4096
    kept.texts[A + NS_PER_S] = b"its own\n"
    assert kept.read_whole(kept.node(A), ONE)[0] == b"its own\n"


def test_with_no_room_for_the_next_server_newcomers_go_past_the_cache(
    kept: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept.fs.pages.newcomers.register, "_free", [])
    assert Reader(kept, ONE).flags == FOPEN_DIRECT_IO


def test_a_settled_reader_stays_settled_under_the_next_server(told: World) -> None:
    reader = Reader(told, ONE)
    reader.asks(4096)
    told.fs.pages.newcomers = Newcomers()
    assert reader.asks(4096) == (TEXT, 100)
