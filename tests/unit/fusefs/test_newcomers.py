"""Who is not known yet reads through the page cache, and nobody gets a piece of another text."""

from __future__ import annotations

import os

import pytest

from pylxcfs.fusefs import nodes
from pylxcfs.fusefs.nodes import CACHED, WATCHED
from pylxcfs.fusefs.snapshots import STEP_NS
from pylxcfs.fusefs.wire import FOPEN_DIRECT_IO
from pylxcfs.units import NS_PER_S
from tests.unit.fusefs.kit import A, World
from tests.unit.fusefs.readers import ONE, OTHER, TEXT, THIRD, Reader, later, make_known
from tests.unit.views.fakes import FakeContainer


def test_the_first_reading_ever_is_served_from_the_cache_at_once(told: World) -> None:
    reader = Reader(told, ONE)
    assert reader.handle & (CACHED | WATCHED) == CACHED | WATCHED
    assert reader.flags == 0  # without the pages that may be there
    assert reader.asks(65536) == (TEXT, 100)
    later(told, b"more of A\n")
    assert reader.asks(65536) == (b"more of A\n", 100)


def test_two_files_read_whole_make_a_thread_known(told: World) -> None:
    make_known(told, ONE)
    assert not Reader(told, ONE).handle & WATCHED


def test_who_reads_in_pieces_gets_all_of_them_from_one_text(told: World) -> None:
    reader = Reader(told, ONE)
    assert reader.asks(5) == (TEXT[:5], 0)
    later(told, b"MORE OF A\n")
    assert reader.asks(5, 5) == (TEXT[5:], 0)
    assert reader.asks(5, 10) == (b"", 0)
    assert reader.asks(5) == (b"MORE ", 0)


def test_a_newcomer_has_the_pages_to_itself(told: World) -> None:
    make_known(told, OTHER)
    pieces = Reader(told, ONE)
    for tid in (OTHER, THIRD):
        assert Reader(told, tid).flags == FOPEN_DIRECT_IO
        assert not told.fs.reopens.open(pieces.node, tid, os.O_RDONLY) & CACHED
    pieces.asks(5)
    assert Reader(told, OTHER).flags == FOPEN_DIRECT_IO
    pieces.close()
    assert Reader(told, OTHER).handle & CACHED


def test_who_opens_a_file_again_in_short_does_not_come_beside_a_newcomer(told: World) -> None:
    make_known(told, OTHER)
    for _ in range(2):
        known = Reader(told, OTHER)
        known.asks(4096)
        known.close()
    reopens = told.fs.reopens
    for _ in range(2):
        handle = reopens.open(known.node, OTHER, os.O_RDONLY)
        assert handle
        reopens.close(known.node, handle)
    assert Reader(told, ONE).handle & CACHED
    assert not reopens.open(known.node, OTHER, os.O_RDONLY) & CACHED


def test_beside_other_cached_handles_nobody_is_a_newcomer(told: World) -> None:
    make_known(told, ONE)
    known, settled = Reader(told, ONE), None
    assert Reader(told, OTHER).flags == FOPEN_DIRECT_IO
    known.close()
    settled = Reader(told, OTHER)
    settled.asks(4096)
    assert Reader(told, THIRD).flags == FOPEN_DIRECT_IO
    assert Reader(told, ONE).handle & CACHED
    settled.close()


def test_a_handle_that_was_opened_in_short_counts_too(told: World) -> None:
    make_known(told, ONE)
    readers = [Reader(told, ONE), Reader(told, ONE)]
    handle = told.fs.reopens.open(readers[0].node, ONE, os.O_RDONLY)
    assert handle
    for reader in readers:
        reader.close()
    assert Reader(told, OTHER).flags == FOPEN_DIRECT_IO
    told.fs.release(readers[0].node, handle)
    assert not Reader(told, OTHER).flags


def test_who_asks_how_long_the_text_is_does_not_change_it(told: World) -> None:
    pieces = Reader(told, ONE)
    pieces.asks(5)
    before = told.fs.attributes(pieces.node, 0, THIRD)
    later(told, b"a much longer text of A\n", 5000)
    assert told.fs.attributes(pieces.node, 0, THIRD) == before
    assert before.valid_ns == 0
    assert pieces.asks(5, 5) == (TEXT[5:], 0)


def test_a_text_that_the_kernel_did_not_heed_is_not_the_one_that_is_read(told: World) -> None:
    """It heeds none whose question is older than another answer, and then keeps its page."""
    reader = Reader(told, ONE)
    assert reader.asks(5)[0] == TEXT[:5]
    later(told, b"MORE OF A\n")
    told.people.readings[ONE] = (5, 0)
    told.fs.attributes(reader.node, reader.handle, ONE)  # no page is asked for
    assert reader.asks(5, 5)[0] == TEXT[5:]
    assert reader.asks(5)[0] == b"MORE "
    assert reader.asks(5, 5)[0] == b"OF A\n"


def test_who_sends_past_the_cache_does_not_leave_its_text_to_who_reads_in_pieces(
    told: World,
) -> None:
    """sendfile(2) fills the page whatever flags its handle has."""
    pieces, sender = Reader(told, ONE), Reader(told, OTHER)
    pieces.asks(5)
    later(told, b"MORE OF A\n")
    assert sender.flags == FOPEN_DIRECT_IO
    assert sender.fills().startswith(TEXT)
    assert pieces.asks(5, 5)[0] == TEXT[5:]
    assert told.fs.read(sender.node, sender.handle, 0, 4096, OTHER) == b"MORE OF A\n"
    assert pieces.asks(5, 10)[0] == b""


def test_who_may_be_waiting_in_something_else_than_open_is_no_newcomer(told: World) -> None:
    """As with io_uring: it would not be seen how it reads."""
    told.people.readings[ONE] = (0, None)
    assert Reader(told, ONE).flags == FOPEN_DIRECT_IO


def test_the_first_page_ever_is_looked_at_too(told: World) -> None:
    """Other system calls than those that ask for attributes first may come to read(2)'s end."""
    reader = Reader(told, ONE)
    told.people.readings[ONE] = (5, 0)
    assert reader.fills().rstrip() == TEXT.rstrip()
    later(told, b"more of A\n")
    assert reader.asks(5, 5) == (TEXT[5:], 0)


def test_who_does_not_read_but_send_gets_a_fresh_page(told: World) -> None:
    whole = Reader(told, OTHER)
    whole.asks(4096)
    whole.close()
    later(told, b"more of A\n")
    assert Reader(told, ONE).fills().startswith(b"more of A\n\n")


def test_who_sends_gets_no_text_of_another_size(told: World) -> None:
    sender = Reader(told, ONE)
    told.fs.attributes(sender.node, 0, THIRD)
    later(told, b"a much longer text of A\n")
    assert sender.fills().startswith(TEXT + b"\n")


def test_behind_a_text_are_newlines(told: World) -> None:
    """Who is told too large a size for a moment gets those, and no zeros."""
    reader = Reader(told, ONE)
    told.fs.attributes(reader.node, 0, THIRD)
    assert reader.fills() == TEXT + b"\n" * (4096 - len(TEXT))


def test_a_page_ends_with_its_text_until_the_kernel_has_asked_how_long_that_is(
    told: World,
) -> None:
    """It may know a bound only, and sendfile(2) never asks; an end before that it believes."""
    sender = Reader(told, ONE)
    assert sender.fills() == TEXT
    told.fs.attributes(sender.node, sender.handle, ONE)
    assert sender.fills().startswith(TEXT + b"\n")


def teach_pieces(world: World) -> None:
    """Let ONE, whose program OTHER runs too, be seen to read in pieces."""
    world.people.programs[OTHER] = world.people.programs.get(ONE, b"")
    reader = Reader(world, ONE)
    reader.asks(5)
    reader.close()


def test_programs_of_a_container_that_has_ended_are_forgotten(told: World) -> None:
    teach_pieces(told)
    assert Reader(told, OTHER).flags == FOPEN_DIRECT_IO
    container = told.people.containers.pop((A, 0))
    told.fs.sweep()
    told.people.containers[A, 0] = container
    assert Reader(told, OTHER).handle & WATCHED


def test_a_program_that_reads_in_pieces_goes_past_the_cache_from_then_on(told: World) -> None:
    teach_pieces(told)
    assert Reader(told, OTHER).flags == FOPEN_DIRECT_IO
    assert not Reader(told, THIRD).flags


def test_where_readings_are_not_told_two_are_looked_at_past_the_cache(told: World) -> None:
    told.people.tells_readings = False
    assert told.read_whole(told.node(A), ONE) == (TEXT, FOPEN_DIRECT_IO)
    assert told.read_whole(told.node(A), ONE)[1] == FOPEN_DIRECT_IO
    assert Reader(told, ONE).handle & (CACHED | WATCHED) == CACHED


def test_who_may_be_reading_is_taken_to_go_on_for_a_while(told: World) -> None:
    reader = Reader(told, ONE)
    assert reader.asks(0, None) == (b"", 0)
    told.people.readings[ONE] = (0, None)
    for _ in range(3):
        later(told, b"more of A\n", 900)
        assert told.fs.attributes(reader.node, reader.handle, ONE).valid_ns == 0
        assert reader.fills().startswith(TEXT)
    later(told, b"most of A\n", 1000)
    told.fs.attributes(reader.node, reader.handle, ONE)
    assert reader.fills().startswith(b"most of A\n")


def test_who_asks_for_the_size_between_pieces_goes_on_however_slow_it_is(told: World) -> None:
    reader = Reader(told, ONE)
    reader.asks(5)
    later(told, b"more of A\n", 5000)
    told.fs.attributes(reader.node, reader.handle, ONE)
    assert reader.asks(5, 5) == (TEXT[5:], 0)


def test_who_does_not_get_to_sleep_goes_on_with_its_text(told: World) -> None:
    """What it asks for cannot be told then, and that is not asked for an unknown call."""
    reader = Reader(told, ONE)
    told.people.readings[ONE] = None
    told.fs.attributes(reader.node, reader.handle, ONE)
    assert reader.fills().startswith(TEXT)
    later(told, b"more of A\n", 5000)
    assert reader.asks(5, 5) == (TEXT[5:], 0)
    later(told, b"most of A\n", 5000)
    told.people.readings[ONE] = None
    told.fs.attributes(reader.node, reader.handle, ONE)
    assert reader.fills().startswith(TEXT)
    assert reader.asks(5, 10) == (b"", 0)
    assert reader.asks(5) == (b"most ", 0)


def test_who_asks_for_the_size_is_not_taken_for_a_reader(told: World) -> None:
    reader = Reader(told, ONE)
    told.people.readings[ONE] = None
    assert told.fs.attributes(reader.node, reader.handle, ONE).valid_ns == 0
    assert reader.asks(4096) == (TEXT, 100)


@pytest.fixture
def compares(told: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Let the file be one whose readers want differences."""
    monkeypatch.setattr(told.fs.contents, "differences", lambda index: True)
    return told


def test_who_compares_gets_a_new_text_the_second_time(compares: World) -> None:
    reader = Reader(compares, ONE)
    assert reader.asks(4096) == (TEXT, 0)
    assert reader.asks(4096, len(TEXT)) == (b"", 0)
    later(compares, b"more of A\n", 1)
    assert reader.asks(4096) == (b"more of A\n", 100)
    later(compares, b"most of A\n", 1)
    assert reader.asks(4096)[0] == b"more of A\n"


def test_who_might_compare_but_closes_becomes_known_too(compares: World) -> None:
    make_known(compares, ONE)
    assert not Reader(compares, ONE).handle & WATCHED


def test_who_might_compare_but_does_not_come_back_lets_others_in(compares: World) -> None:
    make_known(compares, OTHER)
    reader = Reader(compares, ONE)
    reader.asks(4096)
    assert Reader(compares, OTHER).flags == FOPEN_DIRECT_IO
    compares.clock[0] += 1000
    assert Reader(compares, OTHER).handle & CACHED
    assert reader.asks(4096)[1] == 100


def test_sizes_do_not_shrink_under_a_reader(told: World) -> None:
    reader = Reader(told, ONE)
    reader.asks(4096)
    later(told, b"short\n")
    assert reader.asks(4096)[0] == b"short    \n"


def test_a_longer_text_comes_after_its_size(told: World) -> None:
    reader = Reader(told, ONE)
    reader.asks(4096)
    longer = b"a much longer text of A\n"
    later(told, longer)
    missing = len(longer) + len(longer) // 8 - len(TEXT)
    assert reader.asks(4096) == (TEXT + b"\n" * missing, STEP_NS)
    beside = Reader(told, OTHER)
    assert beside.flags == FOPEN_DIRECT_IO
    assert told.fs.read(beside.node, beside.handle, 0, 4096, OTHER) == TEXT
    told.clock[0] += STEP_NS
    assert reader.asks(4096)[0].rstrip() == longer.rstrip()


def test_the_next_container_with_a_number_is_shown_nothing_of_the_last(told: World) -> None:
    pieces = Reader(told, ONE)
    pieces.asks(5)
    pieces.close()
    told.people.end(A)
    told.people.containers[A, 0] = FakeContainer(started_ns_=A + NS_PER_S)
    told.texts[A + NS_PER_S] = b"more of A\n"
    assert Reader(told, OTHER).fills().startswith(b"more of A\n")


def test_a_newcomer_that_its_container_left_open_is_none_in_the_next(told: World) -> None:
    Reader(told, ONE).asks(5)
    told.people.end(A)
    told.people.containers[A, 0] = FakeContainer(started_ns_=A + NS_PER_S)
    told.texts[A + NS_PER_S] = TEXT
    Reader(told, OTHER)
    assert told.node(A) not in told.fs.pages.newcomers


def test_a_number_in_use_is_not_given_again(told: World) -> None:
    first = Reader(told, ONE)
    told.fs._serial = iter(range(first.handle & nodes.SERIAL_MASK, nodes.SERIAL_MASK))
    assert told.fs._unused(nodes.pair((A, 0)), CACHED | WATCHED) != first.handle
    first.close()
    assert not told.fs.pages.newcomers.has(first.handle)


def test_the_kernel_is_to_ask_a_newcomer_whatever_it_was_told(told: World) -> None:
    """A bound could be left from before, with newlines behind the text; or a size that holds."""
    forgotten = []
    told.fs.forget_attributes = forgotten.append
    node = told.node(A)
    assert told.fs.attributes(node, 0, 20).size == 4096
    reader = Reader(told, ONE)
    assert forgotten == [node]
    assert told.fs.attributes(node, 0, 20).size == len(TEXT)
    reader.asks(4096)
    reader.close()
    Reader(told, OTHER)
    assert forgotten == [node, node]
