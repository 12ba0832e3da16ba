"""Pressure triggers: written and polled through the mount, and off unless switched on."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.conftest import require
from tests.kit.container import Container
from tests.kit.daemon import Daemon

#: Arms a trigger on CPU pressure, makes some with more threads than CPUs, waits for the event.
_WAITER = """
import os, select, subprocess, sys
fd = os.open("/proc/pressure/cpu", os.O_RDWR | os.O_NONBLOCK)
os.write(fd, b"some 10000 2000000\\0")
try:
    os.write(fd, b"some 10000 2000000\\0")
except OSError as error:
    print("second:", error.errno)
burn = ["sh", "-c", "while :; do :; done"]
burners = [subprocess.Popen(burn) for _ in range(3 * os.cpu_count() + 3)]
poll = select.poll()
poll.register(fd, select.POLLPRI)
events = poll.poll(30000)
for burner in burners:
    burner.kill()
print("event" if events and events[0][1] & select.POLLPRI else f"none {events}")
"""


@pytest.fixture(autouse=True)
def _pressure() -> None:
    if not os.path.exists("/proc/pressure/cpu"):
        require("psi", "this kernel has no /proc/pressure")


def test_a_trigger_fires() -> None:
    with (
        Daemon("--enable-psi-poll") as daemon,
        Container(daemon.mountpoint) as container,
    ):
        said = container.exec([sys.executable, "-c", _WAITER], timeout=60).stdout.split(b"\n")
        assert said[:2] == [b"second: 16", b"event"]


def test_triggers_are_refused_unless_switched_on(daemon: Daemon) -> None:
    with Container(daemon.mountpoint) as container:
        done = container.exec(
            ["sh", "-c", "echo some 10000 2000000 >/proc/pressure/cpu"], check=False
        )
        assert done.returncode != 0
        assert container.read("/proc/pressure/cpu") == Path("/proc/pressure/cpu").read_bytes() or (
            container.read("/proc/pressure/cpu").startswith(b"some ")
        )


def test_polling_another_file_says_ready_and_no_error() -> None:
    code = (
        "import select; file = open('/proc/meminfo'); poll = select.poll();"
        "poll.register(file, select.POLLIN | select.POLLPRI); print(poll.poll(0)[0][1])"
    )
    with Daemon("--enable-psi-poll") as daemon, Container(daemon.mountpoint) as container:
        assert container.exec([sys.executable, "-c", code]).stdout == b"1\n"
