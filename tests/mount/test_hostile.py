"""Crowds and oddities that a container can make: they cost nobody else an answer."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from tests.conftest import wait_until
from tests.kit.container import Container
from tests.kit.daemon import DEADLINE_S, Daemon
from tests.mount.conftest import Sabotage

#: Asks for what pyfuse3 answers on the caller mount, from many threads, and counts the errors.
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


@pytest.mark.parametrize("name", ["mnt", "run/caller"])
def test_a_crowd_of_rare_requests_waits_and_gets_no_error(name: str) -> None:
    with Daemon() as daemon:
        server = daemon.server
        os.kill(server, signal.SIGSTOP)
        command = [sys.executable, "-c", _CROWD, str(daemon.directory / name)]
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


@pytest.mark.parametrize("bind", ["own", "host"])
def test_a_container_that_never_rests_holds_up_no_other(
    sabotage: Sabotage, tmp_path: Path, bind: Literal["own", "host"]
) -> None:
    rendered = tmp_path / "rendered"
    rendered.touch()
    env = sabotage(
        "proc/uptime",
        f"time.sleep(0.005); open({str(rendered)!r}, 'ab').write(b'.'); return b'1\\n'",
    )
    with (
        Daemon("--cache-ttl=0", env=env, expect_log=["the server was ended"]) as daemon,
        Container(daemon.mountpoint, bind=bind, memory=1 << 30) as loud,
        Container(daemon.mountpoint, bind=bind, memory=2 << 30) as quiet,
        loud.popen([sys.executable, "-c", _LOUD], stdin=subprocess.PIPE) as crowd,
    ):
        for _ in range(2):
            server, before = daemon.server, rendered.stat().st_size
            wait_until(
                lambda before=before: rendered.stat().st_size > before + 100,
                DEADLINE_S,
                what="a pile of requests",
            )
            beside = quiet.exec([sys.executable, "-c", _QUIET, str(rendered)]).stdout.split()
            # Not the forty that wait already, at each request of a read; but for the first ones,
            # if this server has not looked yet.
            assert statistics.median(int(count) for count in beside) < 20, beside
            os.kill(server, signal.SIGKILL)
            daemon.wait_new_server(server)
        crowd.communicate(timeout=60)
        assert crowd.returncode == 0


def test_the_kernel_hands_out_all_that_was_closed(tmp_path: Path) -> None:
    """The twelve at once that are its default leave more behind with each round of many threads."""
    show = 'mount -t fusectl none "$0" && cat "$0/$1/max_background"'
    with Daemon() as daemon:
        for mount in (daemon.mountpoint, daemon.runtime_dir / "caller"):
            connection = str(os.minor(mount.stat().st_dev))
            command = ["unshare", "--mount", "sh", "-c", show, str(tmp_path), connection]
            done = subprocess.run(command, check=True, capture_output=True, timeout=60)
            assert int(done.stdout) == 65535


#: 300 processes that guess names; prints a line once all run, and ends with its input.
_GUESSING = """
import os, signal, sys
children = []
for number in range(300):
    child = os.fork()
    if not child:
        while True:
            try:
                os.open(f"{sys.argv[1]}/{os.urandom(8).hex()}", os.O_RDONLY)
            except FileNotFoundError:
                pass
    children.append(child)
print("guessing", flush=True)
sys.stdin.read()
for child in children:
    os.kill(child, signal.SIGKILL)
for child in children:
    os.waitpid(child, 0)
"""


@pytest.mark.parametrize("where", ["own", "run/caller/proc"])
def test_callers_that_are_killed_in_a_pile_leave_no_request_unanswered(where: str) -> None:
    """A request that was announced is gone when its caller is killed; the next ones wait."""
    with Daemon() as daemon, Container(daemon.mountpoint, memory=2 << 30) as container:
        directory = daemon.mountpoint / "own" if where == "own" else daemon.directory / where
        for _ in range(5):
            with container.popen(
                [sys.executable, "-c", _GUESSING, str(directory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            ) as crowd:
                assert crowd.stdout.readline() == b"guessing\n"
                assert b"2097152 kB" in container.read("/proc/meminfo")
                crowd.communicate(timeout=60)
                assert crowd.returncode == 0
