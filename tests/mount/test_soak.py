"""Readers in containers while the server is killed or stopped again and again.

Zero errors, every content whole and of the right container. PYLXCFS_SOAK=30 makes it last so
many seconds; the counts are in the summary at the end of pytest's output.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require, wait_until
from tests.kit.container import Container
from tests.kit.daemon import ROOT, Daemon
from tests.kit.reader import Settings

SECONDS = float(os.environ.get("PYLXCFS_SOAK", "10"))
STYLES = ("keep", "open", "pieces", "mmap")
FILES = ["meminfo", "stat", "cpuinfo", "uptime", "loadavg", "swaps", "diskstats"]
CONTAINERS = 4
KILL_EVERY_S = 0.2
DEADLINE_S = 60.0


@dataclass
class Running:
    """A reader in a container."""

    style: str
    process: subprocess.Popen[bytes]
    progress: Path

    def count(self) -> int:
        """Return how often it has read."""
        return int.from_bytes(self.progress.read_bytes(), "little")

    def finish(self) -> dict[str, Any]:
        """End it and return its report."""
        out, err = self.process.communicate(timeout=DEADLINE_S)
        assert self.process.returncode == 0, f"{self.process.returncode}: {err.decode()}"
        return json.loads(out)

    def discard(self) -> None:
        """Kill it if it still runs (the test has failed)."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate(timeout=DEADLINE_S)


def start_reader(container: Container, memory: int, style: str, progress: Path) -> Running:
    progress.write_bytes(bytes(8))
    settings = Settings(
        style=style,
        files=[f"proc/{name}" for name in FILES],
        mem_total_kib=memory >> 10,
        cpus=1,
        progress=str(progress),
    )
    process = container.popen(
        [sys.executable, "-m", "tests.kit.reader", json.dumps(asdict(settings))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    return Running(style, process, progress)


@contextlib.contextmanager
def _eight_readers(daemon: Daemon, directory: Path) -> Iterator[list[Running]]:
    """Run two readers in each of four containers; every style is in two of them."""
    with contextlib.ExitStack() as stack:
        readers = []
        for number in range(CONTAINERS):
            memory = (256 + 64 * number) << 20
            container = stack.enter_context(Container(daemon.mountpoint, memory=memory, cpus=1))
            for half in range(2):
                style = STYLES[(2 * number + half) % len(STYLES)]
                progress = directory / f"{number}-{half}"
                reader = start_reader(container, memory, style, progress)
                stack.callback(reader.discard)
                readers.append(reader)
        yield readers


def wait_all_progress(readers: list[Running]) -> None:
    """Wait until each of them has read something more."""
    before = [reader.count() for reader in readers]

    def moved() -> bool:
        for reader in readers:
            if reader.process.poll() is not None:
                pytest.fail(f"the {reader.style} reader ended: {reader.finish()}")
        return all(reader.count() > count for reader, count in zip(readers, before, strict=True))

    wait_until(moved, DEADLINE_S, what="all readers to go on")


def _soak(
    daemon: Daemon,
    directory: Path,
    harm: Callable[[], None],
    blind: int,
    say: Callable[[str, object], None],
) -> None:
    """Let readers read while `harm` happens again and again; judge and print what they saw.

    `blind`: how many times in three with no regard for how far the new server has come.
    """
    harms = 0
    with _eight_readers(daemon, directory) as readers:
        wait_all_progress(readers)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            harm()
            harms += 1
            if harms % 3 >= blind:
                wait_all_progress(readers)
        wait_all_progress(readers)
        reports = [reader.finish() for reader in readers]
    for reader, report in zip(readers, reports, strict=True):
        say(
            "figures",
            f"{reader.style:7} reads {sum(report['reads'].values()):7}  mapped {report['mapped']:6}"
            f" ({report['zeros']} with zeros behind the text)"
            f"  longest {report['longest_ms']:6.0f} ms  errors {len(report['errors'])}",
        )
    total = sum(sum(report["reads"].values()) for report in reports)
    say("figures", f"{total} reads, {harms} servers lost in {SECONDS:g} s")
    errors = [error for report in reports for error in report["errors"]]
    assert not errors, "\n".join(errors[:10])
    assert all(set(report["reads"]) == {f"proc/{name}" for name in FILES} for report in reports)


@pytest.fixture(autouse=True)
def _needs_fuse() -> None:
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        require("fuse", "it needs root and /dev/fuse")


def test_readers_see_nothing_of_servers_that_are_killed(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    chance = random.Random(7)
    with Daemon(expect_log=["the server was ended"]) as daemon:

        def kill() -> None:
            # At any moment of a server's life, 200 ms after the last on average.
            pause = chance.uniform(0, 2 * KILL_EVERY_S)
            server = daemon.server
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.process.wait(pause)
            os.kill(server, signal.SIGKILL)
            daemon.wait_new_server(server)

        _soak(daemon, tmp_path, kill, 1, record_property)


def test_readers_see_nothing_of_servers_that_hang(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    expected = ["no sign of life", "the server (was ended|failed)"]
    with Daemon("--watchdog=1", "--max-failures=1000", expect_log=expected) as daemon:

        def stop() -> None:
            ready = daemon.servers_ready()
            os.kill(daemon.server, signal.SIGSTOP)
            wait_until(
                lambda: daemon.servers_ready() > ready, DEADLINE_S, what="the watchdog to act"
            )

        _soak(daemon, tmp_path, stop, 0, record_property)
