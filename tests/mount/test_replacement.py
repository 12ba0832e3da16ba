"""Servers that are replaced in peace: no read and no listing fails, no open file notices."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.kit.container import Container
from tests.kit.daemon import Daemon

GIB = 1 << 30

#: Lists directories and reads files until told to stop; any error ends it.
_BUSY = """
import os, select, sys
top = "/sys/devices/system/cpu"
kept = open("/proc/meminfo", "rb", buffering=0)
rounds = 0
while not select.select([0], [], [], 0)[0]:
    names = os.listdir(top)
    assert "online" in names and "cpu0" in names, names
    assert open(top + "/possible").read().strip()
    kept.seek(0)
    assert b"MemTotal:        1048576 kB" in kept.read(), "another's"
    rounds += 1
print(rounds)
"""


def test_a_server_that_ends_answers_what_it_has_taken(tmp_path: Path) -> None:
    with (
        Daemon() as daemon,
        Container(daemon.mountpoint, memory=GIB) as container,
    ):
        busy = [
            container.popen(
                [sys.executable, "-c", _BUSY],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for _ in range(2)
        ]
        for _ in range(5):
            server = daemon.server
            os.kill(daemon.keeper, signal.SIGUSR1)
            daemon.wait_new_server(server)
            container.read("/proc/meminfo")
        for process in busy:
            with process:
                out, err = process.communicate(b"x", timeout=60)
                assert process.returncode == 0, err.decode()
                assert int(out) > 0


def test_load_and_counters_go_on_after_a_replacement() -> None:
    with (
        Daemon() as daemon,
        Container(daemon.mountpoint, memory=GIB, cpus=1) as container,
    ):
        container.exec(["sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"])
        before = container.read("/proc/stat").split()[1:5]
        assert int(before[0]) > 0
        server = daemon.server
        os.kill(daemon.keeper, signal.SIGUSR1)
        daemon.wait_new_server(server)
        after = container.read("/proc/stat").split()[1:5]
        assert all(int(b) >= int(a) for a, b in zip(before, after, strict=True))
