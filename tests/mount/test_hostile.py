"""Crowds and oddities that a container can make: they cost nobody else an answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

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
