"""What a blocked thread reads is told by the kernel; pipes block as a FUSE file does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pylxcfs.sources import reading
from pylxcfs.sources.reading import UNKNOWN, Reading
from tests.conftest import wait_until


def waiting(call: str) -> subprocess.Popen[bytes]:
    """Start a process that does `call` on a pipe that nobody writes to, `fd` its reading end."""
    program = f"import os, select; fd, _ = os.pipe(); {call}"
    return subprocess.Popen([sys.executable, "-c", program])


def told(call: str, wanted: Callable[[Reading | None], bool]) -> Reading | None:
    """Wait until what is told of the process's only thread is what is wanted."""
    with waiting(call) as process:
        try:
            wait_until(lambda: wanted(reading.of(process.pid)), 20, what=call)
            return reading.of(process.pid)
        finally:
            process.kill()


def test_a_read_says_its_size() -> None:
    # Pipes have no offset; fdinfo says 0.
    found = told("os.read(fd, 4321)", lambda found: found is not None and found.size == 4321)
    assert found == Reading(4321, 0)


def test_a_vectored_read_does_not() -> None:
    call = "os.readv(fd, [bytearray(100), bytearray(7)])"
    assert told(call, lambda found: found == Reading(0, 0)) == Reading(0, 0)


def test_other_calls_are_not_readings() -> None:
    with waiting("select.select([fd], [], [])") as process:
        try:
            wait_until(lambda: is_asleep(process.pid), 20, what="the call")
            assert reading.of(process.pid) is None
        finally:
            process.kill()


def is_asleep(pid: int) -> bool:
    """Whether it waits in select(2), by the kernel's word."""
    return Path(f"/proc/{pid}/wchan").read_text().startswith("poll_schedule_timeout")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86-64")
@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        ("17 0x3 0x7f0010 0x9 0x4d 0x0 0x0 0x7ffe 0x7f11", Reading(9, 77)),  # pread64
        ("295 0x3 0x7f0010 0x2 0x4d 0x0 0x0 0x7ffe 0x7f11", Reading(0, 77)),  # preadv
        ("327 0x3 0x7f0010 0x2 0xffffffffffffffff 0x0 0x0 0x7ffe 0x7f11", Reading(0, 5)),  # preadv2
        ("180 0x3 0xff0010 0x9 0x4d 0x0 0x0 0xffe8 0xf7f1", Reading(9, 77)),  # pread64, 32 bits
        ("5 0x3 0x7f0010 0x9 0x4d 0x0 0x0 0x7ffe 0x7f11", None),  # fstat
        ("426 0x3 0x1 0x1 0x1 0x0 0x0 0x7ffe 0x7f11", UNKNOWN),  # io_uring_enter
        ("-1 0x7ffe 0x7f11", UNKNOWN),  # one of the kernel's own threads, or a page fault
    ],
)
def test_of_calls_that_do_not_wait_for_a_pipe(
    call: str, wanted: Reading | None, tmp_path: Path
) -> None:
    """As lines of a written procfs, whose file is at its byte 5."""
    (tmp_path / "7/fdinfo").mkdir(parents=True)
    (tmp_path / "7/syscall").write_text(call + "\n")
    (tmp_path / "7/fdinfo/3").write_text("pos:\t5\nflags:\t0100000\n")
    assert reading.of(7, str(tmp_path)) == wanted


def test_of_a_thread_that_runs_nothing_is_known_yet() -> None:
    """Where processors are busy it takes a while to get to sleep, with any request."""
    assert told("\nwhile True: pass", lambda found: found is None) is None


def test_a_thread_that_is_not_there_is_unknown() -> None:
    assert reading.of(2**22 + 5) == UNKNOWN


def test_this_machine_tells() -> None:
    assert reading.can_be_told()


@pytest.mark.parametrize("pid", [os.getpid(), 0])
def test_a_program_is_its_path(pid: int) -> None:
    expected = os.fsencode(os.path.realpath(sys.executable)) if pid else b""
    assert reading.program(pid) == expected
