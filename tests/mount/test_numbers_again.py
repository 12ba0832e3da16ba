"""Numbers of pid namespaces come back: the next container with one sees nothing of the last."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.container import Container
from tests.kit.daemon import Daemon

MIB = 1 << 20
MEMINFO = "/proc/meminfo"
ROUNDS = 12


def total(text: bytes) -> int:
    return int(text.split(None, 2)[1]) << 10


def test_the_first_read_of_each_is_its_own(daemon: Daemon) -> None:
    numbers = []
    for i in range(ROUNDS):
        limit = (200 + i) * MIB
        with Container(daemon.mountpoint, memory=limit) as container:
            numbers.append(container.pidns)
            assert total(container.read(MEMINFO)) == limit
    assert len(set(numbers)) < ROUNDS, "no number came back"


#: Keeps a file open and bound, and reads it at each line of input.
_HOLD = """
import os, subprocess, sys
path = sys.argv[1]
fd = os.open(path, os.O_RDONLY)
print(os.pread(fd, 65536, 0).split()[1].decode(), flush=True)
for line in sys.stdin:
    for attempt in (lambda: os.pread(fd, 65536, 0), lambda: open(path, "rb").read()):
        try:
            print(attempt().split()[1].decode(), end=" ", flush=True)
        except OSError as error:
            print(os.strerror(error.errno).replace(" ", "_"), end=" ", flush=True)
    print(flush=True)
"""


@contextlib.contextmanager
def holding(path: str) -> Iterator[subprocess.Popen[str]]:
    """A process of the host that has a file open, and bound in a mount namespace of its own."""
    bind = 'mount --bind "$1" /proc/uptime && exec "$2" -c "$3" /proc/uptime'
    command = ["unshare", "--mount", "sh", "-c", bind, "hold", path, sys.executable, _HOLD]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=30)


def test_a_bind_that_outlives_its_container_shows_no_number_of_the_next(daemon: Daemon) -> None:
    first, machine = 150 * MIB, total(Path(MEMINFO).read_bytes())
    allowed = {str(first >> 10), str(machine >> 10), os.strerror(errno.EIO).replace(" ", "_")}
    with contextlib.ExitStack() as stack:
        with Container(daemon.mountpoint, memory=first) as container:
            number, path = container.pidns, f"{daemon.mountpoint}/own/{container.key}{MEMINFO}"
            holder = stack.enter_context(holding(path))
            assert holder.stdin is not None
            assert holder.stdout is not None
            assert int(holder.stdout.readline()) << 10 == first
        for i in range(4 * ROUNDS):
            limit = (200 + i) * MIB
            with Container(daemon.mountpoint, memory=limit) as container:
                same = container.pidns == number
                for _ in range(2):
                    assert total(container.read(MEMINFO)) == limit
                    holder.stdin.write("again\n")
                    words = holder.stdout.readline().split()
                    for word in words:
                        assert word in allowed, f"{words} beside {limit >> 10}"
                if same:
                    return
        pytest.fail("the number did not come back")
