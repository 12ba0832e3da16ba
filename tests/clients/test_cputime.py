"""CPU time: what a container uses is in its own files, and what others use is not.

The program that uses the time reads the files itself, so nothing else is measured.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from typing import Any

import pytest

from tests.conftest import require, wait_until
from tests.kit.container import Container
from tests.kit.daemon import Daemon

#: Prints the container's times, in seconds, before and after `work`. CPU time is measured in
#: the process itself, so it is exact on a busy machine, too.
PROGRAM = """
import json, os, sys, time
NAMES = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"]

def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

def look():
    with open("/proc/uptime") as file:
        uptime = float(file.read().split()[0])
    with open("/proc/stat") as file:
        ticks = [int(field) for field in file.readline().split()[1:9]]
    times = {name: count / os.sysconf("SC_CLK_TCK") for name, count in zip(NAMES, ticks)}
    busy = times["user"] + times["nice"] + times["system"]
    return dict(times, busy=busy, uptime=uptime, now=time.monotonic())

before = look()
looks = []
WORK
after = look()
print(json.dumps({"before": before, "looks": looks, "after": after}))
"""
BURN = "burn(float(sys.argv[1]))"


def _start(container: Container, work: str, *argv: str) -> subprocess.Popen[bytes]:
    return container.popen(
        [sys.executable, "-S", "-E", "-c", PROGRAM.replace("WORK", work), *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def _result(process: subprocess.Popen[bytes], said: bytes = b"") -> dict[str, Any]:
    out, _ = process.communicate(said, timeout=240)
    assert process.returncode == 0
    return json.loads(out)


def test_five_seconds_burnt_are_five_seconds_in_stat(daemon: Daemon) -> None:
    with Container(daemon.mountpoint, cpus=1) as container:
        seen = _result(_start(container, BURN, "5"))
    assert seen["after"]["busy"] - seen["before"]["busy"] == pytest.approx(5, rel=0.05)


def test_an_idle_container_on_a_busy_host_is_idle(daemon: Daemon) -> None:
    # It waits for a line, and says when it begins to.
    wait = "print(flush=True); sys.stdin.readline()"
    burner = PROGRAM.replace("before = look()", BURN + "; sys.exit()")
    with Container(daemon.mountpoint, cpus=1) as container:
        idle = _start(container, wait)
        assert idle.stdout is not None
        idle.stdout.readline()
        # Outside: as many as there are CPUs, so that the container's own is busy too. For longer
        # than the second in which a text that grows may be shown once more as it was.
        others = [
            subprocess.Popen([sys.executable, "-S", "-E", "-c", burner, "2"])
            for _ in os.sched_getaffinity(0)
        ]
        for other in others:
            assert other.wait(timeout=240) == 0
        seen = _result(idle, b"go\n")
    before, after = seen["before"], seen["after"]
    assert after["busy"] - before["busy"] < 0.2
    elapsed = after["now"] - before["now"]
    assert after["idle"] - before["idle"] == pytest.approx(elapsed, abs=0.3)


def test_times_never_run_backwards_and_idle_fills_the_rest(daemon: Daemon) -> None:
    work = "for _ in range(40): looks.append(look()); burn(0.03)"
    with Container(daemon.mountpoint, cpus=1) as container:
        # A second process of the container, which keeps it busy on another CPU.
        other = _start(container, BURN, "1")
        seen = _result(_start(container, work))
        _result(other)
    last = seen["before"]
    for now in [*seen["looks"], seen["after"]]:
        assert all(now[name] >= last[name] for name in now), (last, now)
        last = now
    names = ("busy", "idle", "iowait", "irq", "softirq", "steal")
    assert sum(last[name] for name in names) == pytest.approx(last["uptime"], abs=0.5)


def _columns(container: Container) -> dict[str, list[int]]:
    """Return the CPU lines of stat, and the idle time of uptime in ticks, read before them."""
    idle = int(float(container.read("/proc/uptime").split()[1]) * 100 + 0.5)
    lines = container.read("/proc/stat").decode().split("intr")[0].splitlines()
    found = {line.split()[0]: [int(word) for word in line.split()[1:]] for line in lines}
    return found | {"uptime": [idle]}


def _sees(container: Container, lines: int, readings: list[dict[str, list[int]]]) -> bool:
    """Add a reading; return whether it has so many CPU lines."""
    readings.append(_columns(container))
    return len(readings[-1]) - 2 == lines


def test_columns_stepped_back_when_cpus_were_taken_away_and_servers_killed() -> None:
    """2 CPUs, 1 CPU, a kill, 2 CPUs, kills, under load.

    Saved is only that a CPU has left: no text shows its times any more.
    """
    if len(os.sched_getaffinity(0)) < 2:
        require("cpus", "needs two CPUs")
    burn = "while True: pass"
    with (
        Daemon(expect_log=["the server was ended"]) as daemon,
        Container(daemon.mountpoint, cpus=2) as container,
        container.popen([sys.executable, "-c", burn]) as busy,
    ):
        readings = [_columns(container)]
        for cpus in (1, 2, 2, 2):
            container.limits(cpus=cpus)
            wait_until(partial(_sees, container, cpus, readings), 60, what=f"{cpus} CPUs")
            wait_until((daemon.runtime_dir / "state.json").exists, 60, what="the state")
            server = daemon.server
            os.kill(server, signal.SIGKILL)
            daemon.wait_new_server(server)
            readings += [_columns(container) for _ in range(3)]
        os.killpg(busy.pid, signal.SIGKILL)
    last: dict[str, list[int]] = {}
    for now in readings:
        for name, columns in now.items():
            was = last.get(name, [0] * len(columns))
            stepped = [(old, new) for new, old in zip(columns, was, strict=True) if new < old]
            assert not stepped, (name, stepped, readings)
        last |= now
