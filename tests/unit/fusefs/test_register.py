"""Newcomers are found again by the next server, whatever a kill has left of them."""

import os

import pytest

from pylxcfs.fusefs import memory, register
from pylxcfs.fusefs.register import SLOTS, Entry, Register
from pylxcfs.fusefs.snapshots import PAGE


def on(fd: int) -> Register:
    found = Register()
    found.use(fd)
    return found


def entry(handle: int, text: bytes = b"text") -> Entry:
    return Entry(handle, 1 << 63 | 7, 4711, 12, 34, text)


def test_without_a_place_nothing_is_kept() -> None:
    empty = Register()
    empty.keep(entry(5))
    empty.drop(5)
    assert not list(empty.entries())


def test_the_next_server_finds_what_was_kept_last(memfd: int) -> None:
    first = on(memfd)
    first.keep(entry(5))
    first.keep(entry(6))
    first.keep(entry(5, b""))
    first.drop(6)
    assert list(on(memfd).entries()) == [entry(5, b"")]


def test_a_slot_is_used_again(memfd: int) -> None:
    first = on(memfd)
    for handle in range(1, 3 * SLOTS):
        first.keep(entry(handle))
        first.drop(handle)
    assert first.has_room()
    assert len(on(memfd)) == 0


def test_more_than_there_is_room_for_are_left_out(memfd: int) -> None:
    first = on(memfd)
    for handle in range(1, SLOTS + 2):
        assert first.has_room() == (handle <= SLOTS)
        first.keep(entry(handle))
    assert len(on(memfd)) == SLOTS


@pytest.mark.parametrize("at", [0, 8, 55, 56, 63, register._TEXTS, register._TEXTS + 3])
def test_what_a_kill_left_half_written_is_nothing(memfd: int, at: int) -> None:
    first = on(memfd)
    first.keep(entry(5))
    place = memory.REGISTER + (SLOTS - 1) * (PAGE if at >= register._TEXTS else 64) + at
    (byte,) = os.pread(memfd, 1, place)
    os.pwrite(memfd, bytes([byte ^ 1]), place)
    assert not list(on(memfd).entries())
    assert on(memfd).has_room()


def test_a_text_of_more_than_a_page_is_left_out(memfd: int) -> None:
    first = on(memfd)
    first.keep(entry(5, b"x" * 4097))
    first.keep(entry(6, b"x" * 4096))
    assert list(on(memfd).entries()) == [entry(6, b"x" * 4096)]
