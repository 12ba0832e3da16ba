"""Crowds and oddities that a container can make: they cost nobody else an answer."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import wait_until
from tests.kit.container import Container
from tests.kit.daemon import Daemon

#: Asks for what goes through pyfuse3, from many threads at once, and counts the errors.
_CROWD = """
import os, sys, threading
errors = []
def ask():
    try:
        os.statvfs(sys.argv[1])
    except OSError as error:
        errors.append(error.errno)
threads = [threading.Thread(target=ask) for _ in range(600)]
for thread in threads:
    thread.start()
print("asked", flush=True)
for thread in threads:
    thread.join()
print(errors)
"""


def test_a_crowd_of_rare_requests_waits_and_gets_no_error() -> None:
    with Daemon() as daemon:
        server = daemon.server
        os.kill(server, signal.SIGSTOP)
        command = [sys.executable, "-c", _CROWD, str(daemon.mountpoint)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as crowd:
            assert crowd.stdout is not None
            try:
                assert crowd.stdout.readline() == b"asked\n"
            finally:
                os.kill(server, signal.SIGCONT)
            assert crowd.communicate(timeout=60)[0] == b"[]\n"


#: Many threads that read a file whose view takes long, until told to stop; any error ends it.
_LOUD = """
import os, sys, threading
over = []
def read():
    while not over:
        with open("/proc/uptime", "rb", buffering=0) as file:
            assert file.read(65536)
threads = [threading.Thread(target=read, daemon=True) for _ in range(40)]
for thread in threads:
    thread.start()
sys.stdin.read()
over.append(1)
for thread in threads:
    thread.join()
"""

#: Reads another file, and prints how often that view was rendered meanwhile.
_QUIET = """
import os, sys
for _ in range(9):
    before = os.stat(sys.argv[1]).st_size
    with open("/proc/meminfo", "rb", buffering=0) as file:
        assert b"MemTotal:        2097152 kB" in file.read(65536)
    print(os.stat(sys.argv[1]).st_size - before)
"""


def keeps_turns(server: int) -> bool:
    """Whether a server takes requests without waiting for any, as it does where they pile up."""
    for fd in Path(f"/proc/{server}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(fd) == "/dev/fuse":
                flags = Path(f"/proc/{server}/fdinfo/{fd.name}").read_text().split()[3]
                return bool(int(flags, 8) & os.O_NONBLOCK)
    return False


def test_a_container_that_never_rests_holds_up_no_other(sabotage: Any, tmp_path: Path) -> None:
    rendered = tmp_path / "rendered"
    rendered.touch()
    slow = f"import time; time.sleep(0.005); open({str(rendered)!r}, 'ab').write(b'.'); return b'1'"
    env = sabotage("proc/uptime", slow)
    with (
        Daemon("--cache-ttl=0", env=env, expect_log=["the server was ended"]) as daemon,
        Container(daemon.mountpoint, memory=1 << 30) as loud,
        Container(daemon.mountpoint, memory=2 << 30) as quiet,
        loud.popen([sys.executable, "-c", _LOUD], stdin=subprocess.PIPE) as crowd,
    ):
        for _ in range(3):
            server = daemon.server
            wait_until(lambda server=server: keeps_turns(server), what="a pile of requests")
            beside = quiet.exec([sys.executable, "-c", _QUIET, str(rendered)]).stdout.split()
            # Not the forty that wait already, at each request of a read; but for the first ones,
            # if this server has not looked yet.
            assert statistics.median(int(count) for count in beside) < 20, beside
            os.kill(server, signal.SIGKILL)
            daemon.wait_new_server(server)
        crowd.communicate(timeout=60)
        assert crowd.returncode == 0


def test_the_kernel_hands_out_all_that_was_closed() -> None:
    """The twelve at once that are its default leave more behind with each round of many threads."""
    show = "mount -t fusectl none /sys/fs/fuse/connections && cat /sys/fs/fuse/connections/$0/$1"
    with Daemon() as daemon:
        connection = str(os.minor(daemon.mountpoint.stat().st_dev))
        command = ["unshare", "--mount", "sh", "-c", show, connection, "max_background"]
        done = subprocess.run(command, check=True, capture_output=True, timeout=60)
        assert int(done.stdout) == 65535


#: Reads through a cached handle that it keeps open, at each line of input.
_KEEPER = """
import os, sys
for _ in range(5):
    with open("/proc/meminfo", "rb", buffering=0) as file:
        file.read(65536)
file = os.open("/proc/meminfo", os.O_RDONLY)
print("ready", flush=True)
for line in sys.stdin:
    print(os.pread(file, 65536, 0).split()[1].decode(), flush=True)
"""
#: Fills the page cache of a file, at each line of input.
_SENDER = """
import os, sys
reading, writing = os.pipe()
print("ready", flush=True)
for line in sys.stdin:
    with open(sys.argv[1], "rb", buffering=0) as file:
        os.sendfile(writing, file.fileno(), 0, 30)
    print(os.read(reading, 30).split()[1].decode(), flush=True)
"""


def test_what_a_stranger_sends_is_not_read_by_the_owner() -> None:
    with (
        Daemon() as daemon,
        Container(daemon.mountpoint, memory=1 << 30) as owner,
        Container(daemon.mountpoint, memory=2 << 30) as stranger,
    ):
        node = f"{daemon.mountpoint}/by-pidns/{owner.pidns}/proc/meminfo"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with (
            owner.popen([sys.executable, "-c", _KEEPER], **pipes) as keeps,
            stranger.popen([sys.executable, "-c", _SENDER, node], **pipes) as sends,
        ):

            def tell(process: subprocess.Popen[bytes]) -> bytes:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(b"\n")
                process.stdin.flush()
                return process.stdout.readline()

            for process in (keeps, sends):
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n"
            for _ in range(20):
                assert tell(keeps) == b"1048576\n"
                assert tell(sends) == b"2097152\n"
                assert tell(keeps) == b"1048576\n"
