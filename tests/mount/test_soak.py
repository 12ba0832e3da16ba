"""Readers in containers while the server is killed, replaced or stopped again and again.

Zero errors, every content whole and of the right container, on both mounts. PYLXCFS_SOAK=30 makes
each last so many seconds; the counts are in the summary at the end of pytest's output.
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
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require_fuse, wait_until
from tests.kit import readers
from tests.kit.container import Container
from tests.kit.daemon import ROOT, Daemon
from tests.kit.reader import Settings
from tests.kit.wellformed import check
from tests.mount import changing
from tests.mount.conftest import Sabotage

SECONDS = float(os.environ.get("PYLXCFS_SOAK", "4"))
STYLES = ("keep", "open", "pieces", "mmap")
FILES = ["meminfo", "stat", "cpuinfo", "uptime", "loadavg", "swaps", "diskstats"]
CONTAINERS = 4
KILL_EVERY_S = 0.2
DEADLINE_S = 60.0
Say = Callable[[str, object], None]
chance = random.Random(7)


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


def last(daemon: Daemon, seconds: float) -> None:
    """Wait for so long, or until the keeper ends."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        daemon.process.wait(seconds)


def kill(daemon: Daemon) -> None:
    """Kill the server at any moment of its life, 200 ms after the last on average."""
    server = daemon.server
    last(daemon, chance.uniform(0, 2 * KILL_EVERY_S))
    os.kill(server, signal.SIGKILL)
    daemon.wait_new_server(server)


def upgrade(daemon: Daemon) -> None:
    """Have the server replaced in peace."""
    server = daemon.server
    last(daemon, chance.uniform(0, KILL_EVERY_S))
    os.kill(daemon.keeper, signal.SIGUSR1)
    daemon.wait_new_server(server)


def stop(daemon: Daemon) -> None:
    """Let the server hang until the keeper replaces it."""
    ready = daemon.servers_ready()
    os.kill(daemon.server, signal.SIGSTOP)
    wait_until(lambda: daemon.servers_ready() > ready, DEADLINE_S, what="the watchdog to act")


HARMS = {
    "killed": (kill, ("--max-failures=1000",), ["the server (was ended|failed)"]),
    "replaced": (upgrade, (), []),
    "stopped": (
        stop,
        ("--watchdog=1", "--max-failures=1000"),
        ["no sign of life", "the server (was ended|failed)"],
    ),
}


def soak(harm: Callable[[], None], go_on: Callable[[], None], blind: int) -> int:
    """Let readers read while `harm` happens again and again; return how often that was.

    `blind`: how many times in three with no regard for how far the new server has come.
    """
    harms = 0
    go_on()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        harm()
        harms += 1
        if harms % 3 >= blind:
            go_on()
    go_on()
    return harms


@pytest.fixture(autouse=True)
def _needs_fuse() -> None:
    require_fuse()


def test_programs_see_nothing_of_servers_that_are_killed(
    tmp_path: Path, record_property: Say
) -> None:
    """Real files, whose numbers have to make sense and never go back."""
    harm, options, expected = HARMS["killed"]
    with Daemon(*options, expect_log=expected) as daemon, _eight_readers(daemon, tmp_path) as eight:
        harms = soak(partial(harm, daemon), lambda: wait_all_progress(eight), 1)
        reports = [reader.finish() for reader in eight]
    for reader, report in zip(eight, reports, strict=True):
        record_property(
            "figures",
            f"{reader.style:7} reads {sum(report['reads'].values()):7}  mapped {report['mapped']:6}"
            f"  longest {report['longest_ms']:6.0f} ms  errors {len(report['errors'])}",
        )
    total = sum(sum(report["reads"].values()) for report in reports)
    record_property("figures", f"{total} reads, {harms} servers lost in {SECONDS:g} s")
    errors = [error for report in reports for error in report["errors"]]
    assert not errors, "\n".join(errors[:10])
    assert not any(report["zeros"] for report in reports)
    assert all(set(report["reads"]) == {f"proc/{name}" for name in FILES} for report in reports)


PIECES = readers.Way("pieces", 100)
#: Path and ways of the readers of one container on each mount: a crowd on one file, or a reader in
#: pieces that is alone there.
READINGS = {
    "own": (
        ("/proc/uptime", (readers.WHOLE, readers.KEPT, readers.SEND)),
        ("/proc/meminfo", (readers.Way("pieces", 512),)),
    ),
    "host": (
        ("/proc/uptime", (readers.WHOLE, readers.KEPT, PIECES, readers.URING)),
        ("/proc/meminfo", (readers.Way("kept_pieces", 512),)),
    ),
}


def is_whole_meminfo(text: bytes, limit: int) -> None:
    check("/proc/meminfo", text)
    total = int(text.split(None, 2)[1]) << 10
    assert total == limit, f"another's memory: {total}"


@pytest.mark.parametrize("name", HARMS)
def test_no_reader_sees_anything_of_servers_that_are(
    name: str, sabotage: Sabotage, record_property: Say
) -> None:
    """Texts whose size changes with every rendering, two containers on each mount."""
    harm, options, expected = HARMS[name]
    env = sabotage("proc/uptime", changing.CHANGING)
    with (
        Daemon("--cache-ttl=0.02", *options, env=env, expect_log=expected) as daemon,
        contextlib.ExitStack() as stack,
    ):
        wanted, limits = [], []
        for number, bind in enumerate(("own", "host", "own", "host")):
            limit = (256 + 64 * number) << 20
            container = Container(daemon.mountpoint, bind=bind, memory=limit)  # type: ignore[arg-type]
            stack.enter_context(container)
            for path, ways in READINGS[bind]:
                if number >= 2:
                    ways = (PIECES,)
                wanted += [(container, path, way) for way in ways]
                limits += [limit for _ in ways]
        with readers.reading(*wanted) as running:
            harms = soak(partial(harm, daemon), lambda: readers.go_on(running), 1)
            found = [reader.finish() for reader in running]
    faults, ends = [], 0
    for (_, path, _way), limit, outcome in zip(wanted, limits, found, strict=True):
        whole = is_whole_meminfo if path == "/proc/meminfo" else changing.judge_but_for_the_end
        wrong = outcome.faults(partial(whole, limit=limit))
        faults += [f"{path} of {limit >> 20} MiB by {fault}" for fault in wrong]
        if path == "/proc/uptime":
            ends += len(outcome.faults(partial(changing.judge, limit=limit))) - len(wrong)
    reads = sum(outcome.reads for outcome in found)
    record_property("figures", f"{reads} reads, {harms} servers {name}, {ends} ends, {len(faults)}")
    assert not faults, "\n".join(faults[:10])
