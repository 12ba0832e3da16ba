"""What README says of the end of a connection, and of files that are kept open."""

from __future__ import annotations

import errno
import os
import sys

import pytest

from tests.conftest import wait_until
from tests.kit.container import Container
from tests.kit.daemon import DEADLINE_S, Daemon
from tests.kit.fusectl import abort

GIB = 1 << 30

#: Prints the errno of reading a file, 0 if that works.
_ERRNO = """
import sys
try:
    with open(sys.argv[1], "rb", buffering=0) as file:
        file.read(65536)
    print(0)
except OSError as error:
    print(error.errno)
"""

#: sendfile(2) from a file that stays open: before, after a second, and once the file was read.
_SENT = """
import os, sys, time
kept = os.open("/proc/uptime", os.O_RDONLY)
def sent():
    out, into = os.pipe()
    os.sendfile(into, kept, 0, 4096)
    os.close(into)
    try:
        return os.read(out, 4096)
    finally:
        os.close(out)
first = sent()
time.sleep(1)
print(sent() == first)
os.pread(kept, 4096, 0)
print(sent() == first)
"""


def read_errno(container: Container, path: str) -> int:
    return int(container.exec([sys.executable, "-c", _ERRNO, path]).stdout)


@pytest.mark.parametrize("kind", ["own", "caller"])
def test_an_abort_ends_the_files_of_running_containers_and_no_others(kind: str) -> None:
    with Daemon(expect_log=["was aborted", "the server was ended"]) as daemon:
        place = daemon.mountpoint if kind == "own" else daemon.runtime_dir / "caller"
        bind = "own" if kind == "own" else "host"
        with Container(daemon.mountpoint, memory=GIB, bind=bind) as running:
            assert read_errno(running, "/proc/meminfo") == 0
            before = daemon.servers_ready()
            device = os.stat(place).st_dev
            abort(f"{os.major(device)}:{os.minor(device)}")
            wait_until(lambda: daemon.servers_ready() > before, DEADLINE_S, what="a server")
            assert read_errno(running, "/proc/meminfo") == errno.ENOTCONN
            with Container(daemon.mountpoint, memory=2 * GIB, bind=bind) as later:
                assert b" 2097152 kB" in later.read("/proc/meminfo")


def test_sendfile_from_a_kept_file_shows_its_page_until_the_file_is_read() -> None:
    with Daemon() as daemon, Container(daemon.mountpoint, memory=GIB) as container:
        said = container.exec([sys.executable, "-c", _SENT]).stdout
        assert said.split() == [b"True", b"False"]
