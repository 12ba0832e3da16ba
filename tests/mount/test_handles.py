"""Open files of the caller mount: each keeps its text, and no container has those of another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.container import Container
from tests.kit.daemon import Daemon
from tests.mount import changing
from tests.mount.conftest import Sabotage

GIB = 1 << 30

#: Opens a file many times and takes the first piece of each; the rest at a line of input.
_MANY = """
import os, resource, sys
count, path = int(sys.argv[1]), sys.argv[2]
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, max(count + 100, 20000)))
files = [os.open(path, os.O_RDONLY) for _ in range(count)]
begins = [os.read(fd, 10) for fd in files]
print("begun", flush=True)
sys.stdin.readline()
for begin, fd in zip(begins, files):
    sys.stdout.buffer.write(begin + b"".join(iter(lambda: os.read(fd, 4096), b"")) + b"\\0")
"""


def begin(container: Container, count: int) -> subprocess.Popen[bytes]:
    process = container.popen(
        [sys.executable, "-c", _MANY, str(count), "/proc/uptime"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    return process


def rest(process: subprocess.Popen[bytes]) -> list[bytes]:
    out, _ = process.communicate(b"go on\n", timeout=120)
    assert process.returncode == 0
    return out.split(b"\0")[:-1]


@pytest.mark.parametrize("killed", [False, True], ids=["one server", "killed meanwhile"])
def test_many_open_files_of_one_push_out_none_of_another(sabotage: Sabotage, killed: bool) -> None:
    """Read in pieces, with the texts changing all the time."""
    env = sabotage("proc/uptime", changing.CHANGING)
    with (
        Daemon("--cache-ttl=0.02", env=env, expect_log=["the server was ended"]) as daemon,
        Container(daemon.mountpoint, bind="host", memory=GIB) as few,
        Container(daemon.mountpoint, bind="host", memory=2 * GIB) as many,
        begin(few, 20) as first,
        begin(many, 6000) as crowd,
        begin(few, 20) as second,
    ):
        if killed:
            server = daemon.server
            os.kill(server, signal.SIGKILL)
            daemon.wait_new_server(server)
        texts = rest(first) + rest(second)
        assert len(texts) == 40
        for text in texts:
            changing.judge(text, GIB)
        assert len(rest(crowd)) == 6000


def test_small_texts_fill_no_store(sabotage: Sabotage) -> None:
    """As many open files as a process may have, each with a text of a few bytes."""
    env = sabotage(
        "proc/uptime", "return b'%d %020d\\n' % (container.memory().limit, time.monotonic_ns())"
    )
    limit = int(Path("/proc/sys/fs/nr_open").read_text())
    with (
        Daemon("--cache-ttl=0.02", env=env, expect_log=["the server was ended"]) as daemon,
        Container(daemon.mountpoint, bind="host", memory=GIB) as few,
        Container(daemon.mountpoint, bind="host", memory=2 * GIB) as many,
        begin(many, min(18_000, limit - 1000)) as crowd,
        begin(few, 20) as first,
    ):
        server = daemon.server
        os.kill(server, signal.SIGKILL)
        daemon.wait_new_server(server)
        for text in rest(first):
            assert text.startswith(b"%d " % GIB), text
            assert len(text) == len(b"%d " % GIB) + 21, text
        crowd.kill()
        crowd.communicate()
