"""Texts of files that are read in pieces are found again by the next server."""

import os

from pylxcfs.fusefs import memory
from pylxcfs.fusefs.survivors import Survivors


def on(fd: int) -> Survivors:
    survivors = Survivors()
    survivors.use(fd)
    return survivors


def test_without_a_place_nothing_is_kept() -> None:
    survivors = Survivors()
    survivors.keep(5, b"text")
    assert survivors.find(5) is None


def test_another_server_finds_the_text(memfd: int) -> None:
    on(memfd).keep(7 << 30 | 5, b"text")
    assert on(memfd).find(7 << 30 | 5) == b"text"
    assert on(memfd).find(8 << 30 | 5) is None
    assert on(memfd).find(6) is None


def test_the_newest_text_has_the_slot(memfd: int) -> None:
    survivors = on(memfd)
    survivors.keep(5, b"a longer text than the next")
    survivors.keep(5 + 256, b"text")
    assert survivors.find(5) is None
    assert survivors.find(5 + 256) == b"text"


def test_what_a_kill_left_half_written_is_nothing(memfd: int) -> None:
    survivors = on(memfd)
    survivors.keep(0, b"text")
    os.pwrite(memfd, b"X", memory.SURVIVORS + 17)
    assert survivors.find(0) is None


def test_a_text_that_does_not_fit_is_left_out(memfd: int) -> None:
    survivors = on(memfd)
    survivors.keep(3, b"x" * 70_000)
    assert survivors.find(3) is None


def test_the_handshake_is_left_alone(memfd: int) -> None:
    os.pwrite(memfd, b"h" * memory.SURVIVORS, 0)
    on(memfd).keep(0, b"text")
    assert os.pread(memfd, memory.SURVIVORS, 0) == b"h" * memory.SURVIVORS
