"""Helper processes: real ones, and what the server does without an answer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylxcfs.errors import SourceError
from pylxcfs.sources import helper, reading
from pylxcfs.sources.helper import HelperProcess, Positions
from tests.conftest import wait_until

#: Echoes its requests. What begins with "-" is a failure, and "hang" is never answered.
ECHO = """
import socket, sys, time
with socket.socket(fileno=int(sys.argv[1])) as connection:
    connection.send(b"+")
    while request := connection.recv(64):
        if request == b"hang":
            time.sleep(1000)
        connection.send(request if request[:1] == b"-" else b"+" + request)
"""


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[HelperProcess]:
    (tmp_path / "echo.py").write_text(ECHO)
    process = HelperProcess(str(tmp_path / "echo.py"), answer_s=0.5, start_s=30.0)
    yield process
    process.close()


def test_answers_and_failures(echo: HelperProcess) -> None:
    assert echo.ask(b"1") == b"1"
    with pytest.raises(SourceError, match=r"helper process echo.py: no reason"):
        echo.ask(b"-no reason")
    assert echo.ask(b"3") == b"3"


def test_one_that_was_killed_is_replaced(echo: HelperProcess) -> None:
    pid = int(echo.ask(b"1")) and echo._process.pid
    os.kill(pid, signal.SIGKILL)
    assert echo.ask(b"2") == b"2"
    assert echo._process.pid != pid


def test_a_program_that_runs_at_its_own_path_alone(
    echo: HelperProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a Python that finds its libraries beside itself: the linker ends it with 127."""
    program = tmp_path / "bin" / Path(sys.executable).resolve().name
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 127\n")
    program.chmod(0o755)
    flags = os.O_RDONLY | os.O_DIRECTORY
    monkeypatch.setattr(helper.detached, "read_only", lambda _: os.open(program.parent, flags))
    assert echo.ask(b"1") == b"1"
    assert not echo._copied
    os.kill(echo._process.pid, signal.SIGKILL)
    assert echo.ask(b"2") == b"2"


def test_one_that_is_late_is_left_behind_and_not_replaced_at_once(
    echo: HelperProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helper, "_PAUSE_S", (0.2, 64.0))
    echo._pause_s = 0.2
    echo.ask(b"1")
    hung = echo._process
    with pytest.raises(SourceError, match="no answer in time"):
        echo.ask(b"hang")
    with pytest.raises(SourceError, match="late before"):
        echo.ask(b"2")
    wait_until(lambda: hung.poll() is not None, what="its end")
    wait_until(lambda: time.monotonic() > echo._paused_until, what="the end of the pause")
    assert echo.ask(b"3") == b"3"
    assert echo._pause_s == 0.4


def test_helpers_that_do_not_end_are_not_replaced_without_end(echo: HelperProcess) -> None:
    class Undying:
        def poll(self) -> None:
            return None

    echo._late = [Undying()] * helper._MOST_LATE
    with pytest.raises(SourceError, match="late before"):
        echo.ask(b"1")


READER = """
import os
fd, _ = os.pipe()
os.read(fd, 1)
"""


def test_positions_come_from_the_helper() -> None:
    positions = Positions()
    positions.start()
    with subprocess.Popen([sys.executable, "-c", READER]) as process:
        try:
            wait_until(lambda: positions.offset(process.pid) == 0, 20, what="the reader")
            assert positions.offset(2**22 + 5) is None
        finally:
            process.kill()
            positions.close()


def test_a_reader_whose_examination_hangs_counts_as_awake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reading.py").write_text(ECHO)
    monkeypatch.setattr(reading, "__file__", str(tmp_path / "reading.py"))
    positions = Positions()
    assert positions.offset(5) == reading.AWAKE, "it starts"
    wait_until(lambda: positions.offset(5) == 5, 20, what="the start")
    os.kill(positions._process.pid, signal.SIGSTOP)
    hung = positions._process
    assert positions.offset(5) == reading.AWAKE
    assert positions.offset(5) == reading.AWAKE
    wait_until(lambda: hung.poll() is not None, what="its end")
    positions.close()


#: A thread reads from a pipe, whose descriptor another one replaces by that of an epoll file. A
#: third waits for events of that, with a page fault (userfaultfd) that is never served.
HOLDS_EPOLL = """
import ctypes, fcntl, mmap, os, select, struct, threading
libc = ctypes.CDLL(None)
fault = libc.syscall(323, os.O_CLOEXEC)  # userfaultfd
fcntl.ioctl(fault, 0xC018AA3F, bytearray(struct.pack("QQQ", 0xAA, 0, 0)))  # UFFDIO_API
page = mmap.mmap(-1, 4096)
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
fcntl.ioctl(fault, 0xC020AA00, bytearray(struct.pack("QQQQ", address, 4096, 1, 0)))  # REGISTER
epoll = select.epoll()
ready, full = os.pipe()
os.write(full, b"1")
epoll.register(ready, select.EPOLLIN)
wait = libc.epoll_wait
wait.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
reading, writing = os.pipe()
reader = threading.Thread(target=os.read, args=(reading, 1), daemon=True)
reader.start()
threading.Thread(target=wait, args=(epoll.fileno(), address, 1, -1), daemon=True).start()
os.read(fault, 32)  # the fault is there, and the epoll file is locked
os.dup2(epoll.fileno(), reading)
print(reader.native_id, flush=True)
input()
"""


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the number of userfaultfd is x86-64's")
def test_a_container_that_makes_fdinfo_hang_holds_nobody_up() -> None:
    positions = Positions()
    positions.start()
    with (
        subprocess.Popen(
            [sys.executable, "-c", HOLDS_EPOLL], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as hostile,
        subprocess.Popen([sys.executable, "-c", READER]) as process,
    ):
        try:
            thread = int(hostile.stdout.readline())

            def held() -> subprocess.Popen[bytes] | None:
                """Ask about the thread; a helper that was late before it got there has ended."""
                wait_until(lambda: positions.offset(process.pid) == 0, 60, what="the reader")
                asked = positions._process
                assert positions.offset(thread) == reading.AWAKE
                return asked if _state(asked.pid) == "D" else None

            hung = wait_until(held, 120, what="a helper that hangs in the kernel")
            wait_until(lambda: positions.offset(process.pid) == 0, 60, what="another helper")
            assert hung.poll() is None
        finally:
            hostile.kill()
            process.kill()
            positions.close()
    wait_until(lambda: hung.poll() is not None, what="the end of the helper that hung")


def test_a_helper_ends_with_the_server(tmp_path: Path) -> None:
    for file in (helper.translator.__file__, reading.__file__):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                helper.command(file, theirs.fileno()),
                pass_fds=[theirs.fileno()],
                stderr=subprocess.PIPE,
            )
        assert ours.recv(1) == b"+"
        ours.close()
        assert process.communicate(timeout=20)[1] == b""
        assert process.returncode == 0
