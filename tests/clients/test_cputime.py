"""CPU time: what a container uses is in its own files, and what others use is not."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tests.kit.container import Container
from tests.kit.daemon import Daemon

TICKS = os.sysconf("SC_CLK_TCK")
NAMES = "user nice system idle iowait irq softirq steal guest guest_nice".split()  # noqa: SIM905
#: Spins until the process itself has used so many seconds: exact on a busy machine, too.
BURN = "import sys, time\nwhile time.process_time() < float(sys.argv[1]): pass"


def _times(container: Container) -> dict[str, float]:
    """Read the seconds of the `cpu` line of the container's /proc/stat."""
    fields = container.read("/proc/stat").splitlines()[0].split()[1:]
    return {name: int(field) / TICKS for name, field in zip(NAMES, fields, strict=True)}


def _busy(times: dict[str, float]) -> float:
    return times["user"] + times["nice"] + times["system"]


def test_five_seconds_burnt_are_five_seconds_in_stat(daemon: Daemon) -> None:
    with Container(daemon.mountpoint, cpus=1) as container:
        before = _busy(_times(container))
        container.exec([sys.executable, "-S", "-E", "-c", BURN, "5"], timeout=120)
        assert _busy(_times(container)) - before == pytest.approx(5, rel=0.05)


def test_an_idle_container_on_a_busy_host_is_idle(daemon: Daemon) -> None:
    with Container(daemon.mountpoint, cpus=1) as container:
        burner = [sys.executable, "-S", "-E", "-c", BURN, "1.5"]
        before, start = _times(container), time.monotonic()
        subprocess.run(burner, check=True, timeout=120)
        after, end = _times(container), time.monotonic()
        # Its own readers (cat, nsenter) are all that runs in it.
        assert _busy(after) - _busy(before) < 0.25
        assert after["idle"] - before["idle"] == pytest.approx(end - start, abs=0.5)


def test_times_never_run_backwards_and_idle_fills_the_rest(daemon: Daemon) -> None:
    with Container(daemon.mountpoint, cpus=1) as container:
        worker = container.popen([sys.executable, "-S", "-E", "-c", BURN, "1"])
        last = _times(container)
        while worker.poll() is None:
            now = _times(container)
            assert all(now[name] >= last[name] for name in now), (last, now)
            last = now
        up = float(container.read("/proc/uptime").split()[0])
        assert sum(_times(container).values()) == pytest.approx(up, abs=0.5)
