"""What a process can do after it was confined. Each is a Python without modules of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from pylxcfs.sources import confinement

_CONFINED = """
import ctypes, errno, os, runpy, socket, sys
names = runpy.run_path(sys.argv[1])
read, write = os.pipe()
ours, theirs = socket.socketpair()
assert ctypes.CDLL(None).prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
refused = [lambda: os.open("/", 0), socket.socket, lambda: os.kill(os.getpid(), 0), os.pipe,
           lambda: os.dup(0), lambda: os.chdir("/"), lambda: os.setpgid(0, 0)]
assert names["allow_only"]("read", "write", "sendto")
for number, function in enumerate(refused):
    try:
        function()
    except OSError as error:
        assert error.errno == errno.EPERM, (number, error)
    else:
        raise AssertionError(number)
child = os.fork()
if child == 0:
    large = b"x" * (1 << 22)
    os.write(write, b"1" * 5)
    ours.sendall(b"2" * 5)
    os._exit(len(large) - (1 << 22))
assert os.waitpid(child, 0)[1] == 0
assert os.read(read, 5) == b"1" * 5 and os.read(theirs.fileno(), 5) == b"2" * 5
os.write(1, b"all as it should be")
os._exit(0)
"""

_BOUNDED = """
import os, runpy, sys
runpy.run_path(sys.argv[1])["bound_memory"]()
with open("/proc/self/oom_score_adj") as file:
    assert file.read() == "1000\\n"
kept = b"x" * (1 << 20)
try:
    kept += b"x" * (16 << 20)
except MemoryError:
    print("all as it should be", end="")
"""


def said_by(program: str) -> bytes:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, confinement.__file__],
        capture_output=True,
        timeout=60,
        check=False,
    )
    return done.stdout or done.stderr


def test_a_confined_process_reads_writes_forks_and_ends() -> None:
    assert said_by(_CONFINED) == b"all as it should be"


def test_memory_is_bounded() -> None:
    assert said_by(_BOUNDED) == b"all as it should be"


@pytest.mark.parametrize("machine", ["sparc64", "i686"])
def test_on_a_machine_without_numbers_all_is_allowed(
    machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine=machine))
    assert not confinement.allow_only("read")
