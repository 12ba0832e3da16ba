"""Containers that come, read and go leave nothing in the server.

PYLXCFS_CHURN=10000 makes it that many.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable

import psutil
import pytest

from tests.conftest import require_fuse, wait_until
from tests.kit.container import Container
from tests.kit.daemon import Daemon

COUNT = int(os.environ.get("PYLXCFS_CHURN", "500"))
#: Before the measurement begins: what is made once, and pools of the allocator.
WARM_UP = 100
MAX_GROWTH = 5 << 20
FILES = ("meminfo", "stat", "uptime")
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
    require_fuse()


def _descriptors(server: psutil.Process) -> Counter[str]:
    found: Counter[str] = Counter()
    for entry in os.scandir(f"/proc/{server.pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[os.readlink(entry.path)] += 1
    return found


def _settled(server: psutil.Process, living: Container) -> Counter[str]:
    """Return the descriptors once only the living container has any.

    It reads first: a server may keep the one that it answered last.
    """

    def settled() -> Counter[str] | None:
        for name in FILES:
            living.read(f"/proc/{name}")
        found = _descriptors(server)
        ended = [
            name
            for name in found
            if re.match(r"/proc/\d+/", name) and not name.startswith(f"/proc/{living.pid}/")
        ]
        return None if ended or found["anon_inode:[pidfd]"] > 1 else found

    return wait_until(settled, 60, what="the containers that ended to be forgotten")


def test_containers_leave_no_descriptors_and_no_memory_behind(
    record_property: Callable[[str, object], None],
) -> None:
    with Daemon() as daemon, Container(daemon.mountpoint) as living:
        server = psutil.Process(daemon.server)
        _churn(daemon, WARM_UP)
        before, memory = _settled(server, living), server.memory_info().rss
        _churn(daemon, COUNT)
        after, growth = _settled(server, living), server.memory_info().rss - memory
        record_property(
            "figures", f"{COUNT} containers: {growth / 1024:+.0f} KiB, {after.total()} descriptors"
        )
        assert after.total() <= before.total(), after - before
        assert growth < MAX_GROWTH
        assert server.pid == daemon.server, "the server was replaced meanwhile"
