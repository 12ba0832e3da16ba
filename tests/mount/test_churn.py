"""Containers that come, read and go leave nothing in the server.

PYLXCFS_CHURN=10000 makes it that many.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess

import psutil
import pytest

from tests.conftest import require, wait_until
from tests.kit.daemon import Daemon

COUNT = int(os.environ.get("PYLXCFS_CHURN", "500"))
#: Before the measurement begins: what is made once, and pools of the allocator.
WARM_UP = 100
MAX_GROWTH = 5 << 20
#: Each is a container of the cheapest kind: a pid namespace, whose init reads its own files.
SCRIPT = """
i=0
while [ $i -lt "$2" ]; do
  unshare --pid --fork cat "$1/proc/meminfo" "$1/proc/stat" "$1/proc/uptime" >/dev/null || exit 1
  i=$((i + 1))
done
"""


def _churn(daemon: Daemon, count: int) -> None:
    command = ["sh", "-c", SCRIPT, "churn", str(daemon.mountpoint), str(count)]
    done = subprocess.run(command, capture_output=True, timeout=60 + count)
    assert done.returncode == 0, done.stderr.decode()


@pytest.fixture(autouse=True)
def _needs_fuse() -> None:
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        require("fuse", "it needs root and /dev/fuse")


def _held_for_containers(server: psutil.Process) -> list[str]:
    """List the server's descriptors that no living container can account for."""
    found = []
    for entry in os.scandir(f"/proc/{server.pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(entry.path))
    return [name for name in found if re.match(r"/proc/\d+/|.*pidfd", name)]


def test_containers_leave_no_descriptors_and_no_memory_behind() -> None:
    with Daemon() as daemon:
        server = psutil.Process(daemon.server)
        _churn(daemon, WARM_UP)
        wait_until(lambda: not _held_for_containers(server), 60, what="the warm-up to be forgotten")
        descriptors, memory = server.num_fds(), server.memory_info().rss
        _churn(daemon, COUNT)
        wait_until(lambda: server.num_fds() <= descriptors, 60, what="all to be forgotten")
        growth = server.memory_info().rss - memory
        print(f"{COUNT} containers: {growth / 1024:+.0f} KiB, {descriptors} descriptors")
        assert growth < MAX_GROWTH
        assert server.pid == daemon.server, "the server was replaced meanwhile"
