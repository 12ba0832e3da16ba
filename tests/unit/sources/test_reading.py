"""What a blocked thread reads is told by the kernel; pipes block as a FUSE file does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

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
    found = told("select.select([fd], [], [])", lambda found: found == UNKNOWN)
    assert found == UNKNOWN


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
