"""The file position of a thread that waits in a read, from the kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pylxcfs.sources import reading
from tests.conftest import wait_until


def waiting(call: str) -> subprocess.Popen[bytes]:
    """Start a process that does `call` on a pipe that is never written to, `fd` its reading end.

    A pipe blocks as a FUSE file does, and its position is 0.
    """
    return subprocess.Popen([sys.executable, "-c", f"import os, select; fd, _ = os.pipe(); {call}"])


def wait_for_sleep(pid: int, function: str) -> None:
    """Wait until a process sleeps in a function of the kernel."""
    path = Path(f"/proc/{pid}/wchan")
    wait_until(lambda: function in path.read_text(), 20, what=f"a sleep in {function}")


@pytest.mark.parametrize("call", ["os.read(fd, 4321)", "os.readv(fd, [bytearray(100)])"])
def test_a_read_has_the_position_of_its_file(call: str) -> None:
    with waiting(call) as process:
        try:
            wait_until(lambda: reading.offset(process.pid) == 0, 20, what=call)
        finally:
            process.kill()


def test_another_call_has_none() -> None:
    with waiting("select.select([fd], [], [])") as process:
        try:
            wait_for_sleep(process.pid, "poll")
            assert reading.offset(process.pid) is None
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        ("0 0x3 0x7f0010 0x9 0x0 0x0 0x0 0x7ffe 0x7f11", 5),  # read
        ("17 0x3 0x7f0010 0x9 0x4d 0x0 0x0 0x7ffe 0x7f11", 77),  # pread64
        ("19 0x3 0x7f0010 0x2 0x0 0x0 0x0 0x7ffe 0x7f11", 5),  # readv
        ("295 0x3 0x7f0010 0x2 0x4d 0x0 0x0 0x7ffe 0x7f11", 77),  # preadv
        ("327 0x3 0x7f0010 0x2 0xffffffffffffffff 0x0 0x0 0x7ffe 0x7f11", 5),  # preadv2
        ("180 0x3 0xff0010 0x9 0x4d 0x0 0x0 0xffe8 0xf7f1", 77),  # pread64, 32 bits
        ("5 0x3 0x7f0010 0x9 0x4d 0x0 0x0 0x7ffe 0x7f11", None),  # fstat
        ("0 0x4 0x7f0010 0x9 0x0 0x0 0x0 0x7ffe 0x7f11", None),  # read, of a file closed meanwhile
        ("426 0x3 0x1 0x1 0x1 0x0 0x0 0x7ffe 0x7f11", None),  # io_uring_enter
        ("-1 0x7ffe 0x7f11", None),  # a kernel thread, or a page fault
        ("running", None),
        ("", None),
    ],
)
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86-64")
def test_of_lines_of_a_written_procfs(call: str, wanted: int | None, tmp_path: Path) -> None:
    """In which file 3 is at its byte 5."""
    (tmp_path / "7/fdinfo").mkdir(parents=True)
    (tmp_path / "7/wchan").write_text("request_wait_answer")
    (tmp_path / "7/syscall").write_text(call + "\n")
    (tmp_path / "7/fdinfo/3").write_text("pos:\t5\nflags:\t0100000\n")
    assert reading.offset(7, str(tmp_path)) == wanted


def test_a_thread_on_its_way_to_sleep_is_not_waited_for_in_the_kernel(tmp_path: Path) -> None:
    """Reading `syscall` of one takes as long as its cgroup is throttled; so it is not opened."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7/wchan").write_text("0")
    os.mkfifo(tmp_path / "7/syscall")  # opening it would wait for good
    assert reading.offset(7, str(tmp_path)) == reading.AWAKE


def test_a_thread_that_runs_may_be_about_to_sleep() -> None:
    with waiting("\nwhile True: pass") as process:
        try:
            wait_until(
                lambda: Path(f"/proc/{process.pid}/syscall").read_text() == "running\n",
                20,
                what="the loop",
            )
            assert reading.offset(process.pid) == reading.AWAKE
        finally:
            process.kill()


@pytest.mark.parametrize("tid", [0, 2**22 + 5])
def test_a_thread_that_is_not_there_has_none(tid: int) -> None:
    assert reading.offset(tid) is None


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        ("2 0x7f0010 0x80000 0x0 0x0 0x0 0x0 0x7ffe 0x7f11", True),  # open
        ("257 0xffffff9c 0x7f0010 0x80000 0x0 0x0 0x0 0x7ffe 0x7f11", True),  # openat
        ("295 0xffffff9c 0xff0010 0x80000 0x0 0x0 0x0 0xffe8 0xf7f1", True),  # openat, 32 bits
        ("5 0x3 0x7f0010 0x9 0x4d 0x0 0x0 0x7ffe 0x7f11", False),  # fstat
        ("262 0xffffff9c 0x7f0010 0x7f0050 0x0 0x0 0x0 0x7ffe 0x7f11", False),  # newfstatat
        ("running", False),
    ],
)
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86-64")
def test_which_calls_open_a_file(call: str, wanted: bool, tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/wchan").write_text("request_wait_answer")
    (tmp_path / "7/syscall").write_text(call + "\n")
    assert reading.opens(7, str(tmp_path)) == wanted


def test_a_thread_that_is_awake_may_open_a_file(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/wchan").write_text("0")
    assert reading.opens(7, str(tmp_path))


def test_a_process_that_opens_a_fifo_is_seen_to_open(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with waiting(f"os.open({str(tmp_path / 'fifo')!r}, os.O_RDONLY)") as process:
        try:
            wait_for_sleep(process.pid, "partner")
            assert reading.opens(process.pid)
        finally:
            process.kill()


@pytest.mark.parametrize("tid", [0, 2**22 + 5])
def test_a_thread_that_is_not_there_opens_nothing(tid: int) -> None:
    assert not reading.opens(tid)
