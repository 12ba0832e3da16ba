"""Who is not known yet reads through the page cache, and nobody gets a piece of another text."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pylxcfs.fusefs import newcomers, nodes, pages
from pylxcfs.fusefs.newcomers import Newcomers
from pylxcfs.fusefs.nodes import CACHED, WATCHED
from pylxcfs.fusefs.wire import FOPEN_DIRECT_IO
from tests.unit.fusefs.kit import ME, A, World

#: Threads of container A that nobody knows.
ONE, OTHER, THIRD = ME, 31, 32
TEXT = b"text of A\n"


@pytest.fixture
def told(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Let the world tell how threads read, in a container of several."""
    monkeypatch.setattr(newcomers, "_TOGETHER_NS", 1000)
    monkeypatch.setattr(pages, "_ON_ITS_WAY_NS", 10)
    world.people.tells_readings = True
    for tid in (OTHER, THIRD):
        world.people.who[tid] = (A, 0)
        world.people.programs[tid] = b"/bin/%d" % tid
    world.clock[0] = 10_000
    return world


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
        page = self.world.fs.read(self.node, self.handle, 0, 4096, self.tid)
        assert len(page) == attributes.size
        del self.world.people.readings[self.tid]
        return page[offset or 0 : (offset or 0) + size], attributes.valid_ns

    def close(self) -> None:
        self.world.fs.release(self.node, self.handle)


def later(world: World, text: bytes, by_ns: int = 100) -> None:
    """Let time pass, and the view say something else."""
    world.clock[0] += by_ns
    world.texts[A] = text


def test_the_first_reading_ever_is_served_from_the_cache_at_once(told: World) -> None:
    reader = Reader(told, ONE)
    assert reader.handle & (CACHED | WATCHED) == CACHED | WATCHED
    assert reader.flags == 0  # without the pages that may be there
    assert reader.asks(65536) == (TEXT, 100)
    later(told, b"more of A\n")
    assert reader.asks(65536) == (b"more of A\n", 100)


def test_two_files_read_whole_make_a_thread_known(told: World) -> None:
    for _ in range(2):
        reader = Reader(told, ONE)
        reader.asks(4096)
        reader.close()
    assert not Reader(told, ONE).handle & WATCHED


def test_who_reads_in_pieces_gets_all_of_them_from_one_text(told: World) -> None:
    reader = Reader(told, ONE)
    assert reader.asks(5) == (TEXT[:5], 0)
    later(told, b"MORE OF A\n")
    assert reader.asks(5, 5) == (TEXT[5:], 0)
    assert reader.asks(5, 10) == (b"", 0)
    assert reader.asks(5) == (b"MORE ", 0)


def test_its_neighbours_get_its_text_for_a_while_and_then_a_newer_one(told: World) -> None:
    whole, pieces = Reader(told, OTHER), Reader(told, ONE)
    assert whole.asks(4096)[0] == TEXT
    assert pieces.asks(4) == (TEXT[:4], 0)
    later(told, b"more of A\n")
    assert whole.asks(4096) == (TEXT, 0)
    later(told, b"most of A\n", 1000)
    assert whole.asks(4096) == (b"most of A\n", 0)
    # Who is in the middle goes on with what it had.
    assert pieces.asks(6, 4) == (TEXT[4:], 0)
    assert whole.asks(4096) == (b"most of A\n", 0)


def test_sizes_do_not_shrink_under_a_reader(told: World) -> None:
    whole, pieces = Reader(told, OTHER), Reader(told, ONE)
    assert pieces.asks(4)[0] == TEXT[:4]
    later(told, b"a much longer text of A\n", 1000)
    longer = whole.asks(4096)[0]
    assert longer.startswith(b"a much longer text of A")
    assert pieces.asks(100, 4)[0].rstrip() == TEXT[4:].rstrip()
    later(told, b"short\n")
    assert len(whole.asks(4096)[0]) == len(longer)


def test_another_size_is_told_when_no_other_answer_can_be_on_its_way(told: World) -> None:
    """The kernel would drop it, and the page would be read with the old size."""
    longer = b"a much longer text of A\n"
    one, other = Reader(told, ONE), Reader(told, OTHER)
    assert one.asks(4096)[0] == TEXT
    later(told, longer, 95)
    assert other.asks(4096)[0] == TEXT
    told.clock[0] += 6
    assert one.asks(4096) == (TEXT, 0)  # the other's answer is 6 ns old
    assert one.asks(4096)[0].startswith(longer[:-1])  # the last one was its own
    later(told, longer + longer)
    assert other.asks(4096)[0].startswith(longer + longer[:-1])  # that was long ago


def test_who_has_finished_holds_up_nobody(told: World) -> None:
    whole, pieces = Reader(told, OTHER), Reader(told, ONE)
    whole.asks(4096)
    for offset in (0, 5, 10):
        pieces.asks(5, offset)
    later(told, b"more of A\n")
    assert whole.asks(4096) == (b"more of A\n", 0)
    pieces.close()
    assert whole.asks(4096) == (b"more of A\n", 100)


def test_the_first_piece_may_go_unseen(told: World) -> None:
    """Attributes that hold, and a page that another reader filled: it does not ask."""
    whole = Reader(told, OTHER)
    assert whole.asks(4096) == (TEXT, 100)
    pieces = Reader(told, ONE)
    told.fs.read(whole.node, whole.handle, 0, 4096, OTHER)
    later(told, b"more of A\n")
    assert whole.asks(4096) == (TEXT, 0)
    assert pieces.asks(5, 5) == (TEXT[5:], 0)


def test_the_first_page_ever_is_looked_at_too(told: World) -> None:
    """Before anything was shown the kernel may have attributes, and asks for the page alone."""
    reader = Reader(told, ONE)
    told.people.readings[ONE] = (5, 0)
    assert told.fs.read(reader.node, reader.handle, 0, 4096, ONE) == TEXT
    later(told, b"more of A\n")
    assert reader.asks(5, 5) == (TEXT[5:], 0)


def test_who_does_not_read_but_send_gets_a_fresh_page(told: World) -> None:
    whole = Reader(told, OTHER)
    whole.asks(4096)
    later(told, b"more of A\n")
    sender = Reader(told, ONE)
    assert told.fs.read(sender.node, sender.handle, 0, 4096, ONE) == b"more of A\n"


def test_whose_read_arrives_when_its_text_has_ended_gets_it_all(told: World) -> None:
    """The size that it goes by is the old one's."""
    whole = Reader(told, OTHER)
    whole.asks(4096)
    reader = Reader(told, ONE)
    later(told, b"a much longer text of A\n")
    told.people.readings[ONE] = (4096, 0)
    assert told.fs.read(reader.node, reader.handle, 0, 4096, ONE) == TEXT


def test_who_sends_gets_no_text_of_another_size(told: World) -> None:
    whole = Reader(told, OTHER)
    whole.asks(4096)
    sender = Reader(told, ONE)
    later(told, b"a much longer text of A\n")
    assert told.fs.read(sender.node, sender.handle, 0, 4096, ONE) == TEXT


def test_one_in_the_middle_sends_others_past_the_cache(told: World) -> None:
    pieces = Reader(told, ONE)
    assert not Reader(told, OTHER).flags
    pieces.asks(5)
    assert Reader(told, THIRD).flags == FOPEN_DIRECT_IO
    pieces.close()
    assert not Reader(told, THIRD).flags


def test_a_program_that_reads_in_pieces_goes_past_the_cache_from_then_on(told: World) -> None:
    told.people.programs[OTHER] = b""  # as ONE's
    pieces = Reader(told, ONE)
    pieces.asks(5)
    pieces.close()
    assert Reader(told, OTHER).flags == FOPEN_DIRECT_IO
    assert not Reader(told, THIRD).flags


def test_where_readings_are_not_told_two_are_looked_at_past_the_cache(told: World) -> None:
    told.people.tells_readings = False
    assert told.read_whole(told.node(A), ONE) == (TEXT, FOPEN_DIRECT_IO)
    assert told.read_whole(told.node(A), ONE)[1] == FOPEN_DIRECT_IO
    assert Reader(told, ONE).handle & (CACHED | WATCHED) == CACHED


def test_other_system_calls_are_taken_for_pieces_for_a_while(told: World) -> None:
    reader = Reader(told, ONE)
    assert reader.asks(0, None) == (b"", 0)
    later(told, b"more of A\n")
    told.people.readings.clear()
    attributes = told.fs.attributes(reader.node, reader.handle, ONE)
    assert attributes.valid_ns == 0
    assert told.fs.read(reader.node, reader.handle, 0, 4096, ONE) == TEXT
    later(told, b"most of A\n", 1000)
    told.fs.attributes(reader.node, reader.handle, ONE)
    assert told.fs.read(reader.node, reader.handle, 0, 4096, ONE) == b"most of A\n"


def test_who_asks_for_the_size_is_not_taken_for_a_reader(told: World) -> None:
    reader = Reader(told, ONE)
    told.people.readings[ONE] = None
    assert told.fs.attributes(reader.node, reader.handle, ONE).valid_ns == 0
    assert reader.asks(4096) == (TEXT, 100)


def test_who_compares_gets_a_new_text_the_second_time(
    told: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(told.fs.contents, "differences", lambda index: True)
    reader = Reader(told, ONE)
    assert reader.asks(4096) == (TEXT, 0)
    assert reader.asks(4096, len(TEXT)) == (b"", 0)
    later(told, b"more of A\n", 1)
    assert reader.asks(4096) == (b"more of A\n", 100)
    later(told, b"most of A\n", 1)
    assert reader.asks(4096)[0] == b"more of A\n"


def test_who_might_compare_but_closes_becomes_known_too(
    told: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(told.fs.contents, "differences", lambda index: True)
    for _ in range(2):
        reader = Reader(told, ONE)
        reader.asks(4096)
        reader.close()
    assert not Reader(told, ONE).handle & WATCHED


@pytest.fixture
def memfd() -> Iterator[int]:
    fd = os.memfd_create("keeper")
    yield fd
    os.close(fd)


@pytest.fixture
def kept(told: World, memfd: int) -> World:
    told.fs.recover(memfd)
    return told


def next_server(world: World, memfd: int) -> None:
    """Let a new server take over that knows nothing but what is in the memfd."""
    world.fs.pages.newcomers = Newcomers()
    snapshots = world.fs.snapshots
    for table in (snapshots._recent, snapshots._shown):
        table.clear()
    world.fs.recover(memfd)


def test_the_next_server_goes_on_with_the_text(kept: World, memfd: int) -> None:
    pieces = Reader(kept, ONE)
    assert pieces.asks(5)[0] == TEXT[:5]
    next_server(kept, memfd)
    later(kept, b"more of A\n")
    assert pieces.asks(5, 5) == (TEXT[5:], 0)
    assert pieces.asks(5, 10) == (b"", 0)
    assert pieces.asks(5) == (b"more ", 0)


def test_the_next_server_shows_others_that_text_before_its_reader_comes(
    kept: World, memfd: int
) -> None:
    whole, pieces = Reader(kept, OTHER), Reader(kept, ONE)
    whole.asks(4096)
    pieces.asks(5)
    later(kept, b"more of A\n")
    next_server(kept, memfd)
    assert whole.asks(4096) == (TEXT, 0)
    assert pieces.asks(5, 5) == (TEXT[5:], 0)


def test_the_next_server_knows_who_has_not_begun(kept: World, memfd: int) -> None:
    whole, pieces = Reader(kept, OTHER), Reader(kept, ONE)
    whole.asks(4096)
    next_server(kept, memfd)
    assert whole.asks(4096)[1] == 0  # so the other will be seen to begin
    assert pieces.asks(5) == (TEXT[:5], 0)


def test_the_next_server_knows_who_may_have_begun_unseen(kept: World, memfd: int) -> None:
    whole = Reader(kept, OTHER)
    assert whole.asks(4096) == (TEXT, 100)
    pieces = Reader(kept, ONE)
    later(kept, b"more of A\n", 50)
    next_server(kept, memfd)
    assert whole.asks(4096) == (TEXT, 0)
    assert pieces.asks(5, 5) == (TEXT[5:], 0)


def test_the_next_server_knows_nothing_of_who_has_settled_or_closed(
    kept: World, memfd: int
) -> None:
    whole, closed = Reader(kept, OTHER), Reader(kept, ONE)
    whole.asks(4096)
    closed.close()
    next_server(kept, memfd)
    assert kept.node(A) not in kept.fs.pages.newcomers
    assert whole.asks(4096) == (TEXT, 100)


def test_the_next_server_shows_nobody_what_others_were_past(kept: World, memfd: int) -> None:
    whole, pieces = Reader(kept, OTHER), Reader(kept, ONE)
    pieces.asks(4)
    later(kept, b"more of A\n", 1000)
    assert whole.asks(4096)[0] == b"more of A\n"
    next_server(kept, memfd)
    assert whole.asks(4096)[0] == b"more of A\n"
    assert pieces.asks(6, 4) == (TEXT[4:], 0)


def test_the_next_server_is_past_a_text_that_was_read_to_its_end(kept: World, memfd: int) -> None:
    whole, pieces = Reader(kept, OTHER), Reader(kept, ONE)
    for offset in (0, 5, 10):
        pieces.asks(5, offset)
    later(kept, b"more of A\n")
    next_server(kept, memfd)
    assert whole.asks(4096)[0] == b"more of A\n"


def test_the_next_server_tells_no_smaller_size(kept: World, memfd: int) -> None:
    whole, pieces = Reader(kept, OTHER), Reader(kept, ONE)
    pieces.asks(4)
    later(kept, b"a much longer text of A\n", 1000)
    longer = whole.asks(4096)[0]
    next_server(kept, memfd)
    assert len(whole.asks(4096)[0]) == len(longer)
    assert pieces.asks(100, 4)[0].rstrip() == TEXT[4:].rstrip()
    assert len(whole.asks(4096)[0]) == len(longer)


def test_who_was_never_told_that_it_has_a_file_open_is_forgotten(
    kept: World, memfd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newcomers, "_UNHEARD_NS", 1000)
    reader, _ = Reader(kept, OTHER), Reader(kept, ONE)
    next_server(kept, memfd)
    reader.asks(5)
    kept.clock[0] += 1001
    kept.fs.sweep()
    assert len(kept.fs.pages.newcomers.register) == 1


def test_the_next_server_shows_no_text_of_a_container_before(kept: World, memfd: int) -> None:
    pieces = Reader(kept, ONE)
    pieces.asks(5)
    kept.people.containers[A, 0] = type(kept.people.containers[A, 0])(started_ns_=A + 1)
    kept.texts[A + 1] = b"more of A\n"
    next_server(kept, memfd)
    assert Reader(kept, OTHER).asks(4096)[0] == b"more of A\n"


def test_who_the_next_server_does_not_know_goes_on_with_what_is_shown(
    kept: World, memfd: int
) -> None:
    pieces, whole = Reader(kept, ONE), Reader(kept, OTHER)
    kept.fs.pages.newcomers.register.drop(pieces.handle)
    next_server(kept, memfd)
    whole.asks(4096)
    later(kept, b"more of A\n")
    assert pieces.asks(5, 5) == (TEXT[5:], 0)


def test_with_no_room_for_the_next_server_newcomers_go_past_the_cache(
    kept: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept.fs.pages.newcomers.register, "_free", [])
    assert Reader(kept, ONE).flags == FOPEN_DIRECT_IO


def test_a_settled_reader_is_looked_at_again_by_the_next_server(told: World) -> None:
    reader = Reader(told, ONE)
    reader.asks(4096)
    told.fs.pages.newcomers = Newcomers()
    assert reader.asks(4096) == (TEXT, 100)


def test_the_next_container_with_a_number_is_shown_nothing_of_the_last(told: World) -> None:
    pieces = Reader(told, ONE)
    pieces.asks(5)
    told.people.containers[A, 0] = type(told.people.containers[A, 0])(started_ns_=A)
    later(told, b"more of A\n", 1)
    reader = Reader(told, OTHER)
    assert told.fs.read(reader.node, reader.handle, 0, 4096, OTHER) == b"more of A\n"


def test_newcomers_that_never_read_are_bounded_and_forgotten(told: World) -> None:
    readers = [Reader(told, OTHER) for _ in range(newcomers._MOST + 1)]
    assert [reader.flags for reader in readers[-2:]] == [0, FOPEN_DIRECT_IO]
    for reader in readers:
        reader.close()
    assert readers[0].node not in told.fs.pages.newcomers
    assert not told.fs.pages.newcomers.has(readers[0].handle)


def test_a_number_in_use_is_not_given_again(told: World) -> None:
    first = Reader(told, ONE)
    told.fs._serial = iter(range(first.handle & nodes.SERIAL_MASK, nodes.SERIAL_MASK))
    assert Reader(told, OTHER).handle != first.handle


def test_no_bound_is_told_once_there_is_a_cached_handle(told: World) -> None:
    """It could come before the size that the reader is told, and leave zeros behind its text."""
    forgotten = []
    told.fs.forget_attributes = forgotten.append
    node = told.node(A)
    assert told.fs.attributes(node, 0, 20).size == 4096
    reader = Reader(told, ONE)
    assert forgotten == [node]
    assert told.fs.attributes(node, 0, 20).size == len(TEXT)
    Reader(told, OTHER)
    assert forgotten == [node]
    assert reader.asks(4096) == (TEXT, 0)
