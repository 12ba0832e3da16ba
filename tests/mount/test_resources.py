"""The resources service of an instance: it agrees with files and system calls, and survives."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylxcfs import resources
from pylxcfs.formats import cpulist, meminfo
from pylxcfs.resources.query import Query
from pylxcfs.resources.service import MOST_EACH
from pylxcfs.sources.containers import ContainerSource
from pylxcfs.syscalls.values import Values
from pylxcfs.views.model import Options
from tests.conftest import require_fuse, wait_until
from tests.kit.asking import connect, get, line, rest, serving
from tests.kit.cgroups import Cgroup
from tests.kit.container import Container
from tests.kit.daemon import DEADLINE_S, Daemon

MIB = 1 << 20
#: Opens many connections, sends many requests over each, and waits.
FLOOD = """
import resource, socket, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
many = []
for _ in range(int(sys.argv[2])):
    one = socket.socket(socket.AF_UNIX)
    one.connect(sys.argv[1])
    one.sendall(b"GET /v1/self HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n" * 20)
    many.append(one)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    require_fuse()
    expected = ["resources service has ended", "server was ended"]
    with Daemon("--resources", "--cache-ttl=0", expect_log=expected) as running:
        yield running


def path_of(daemon: Daemon) -> str:
    return f"{daemon.runtime_dir}/resources.sock"


def service_of(daemon: Daemon) -> int:
    """Return the pid of the process that answers; 0 while there is none."""
    for child in psutil.Process(daemon.keeper).children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "answer-resources" in child.cmdline():
                return child.pid
    return 0


class Limits(NamedTuple):
    """Limits of one level; None: no limit. `swap` needs `memory`, as v1 limits the sum."""

    memory: int | None
    swap: int | None
    cpus: float | None
    pids: int | None

    def write(self, cgroup: Cgroup) -> None:
        directory = cgroup.directory("memory")
        memsw = directory / "memory.memsw.limit_in_bytes"
        if memsw.exists():
            memsw.write_text("-1")  # the other limit may not exceed it
        cgroup.limits(memory=self.memory, cpus=self.cpus)
        if self.swap is not None and memsw.exists():
            cgroup.limits(memory=self.memory, swap=self.swap)
        elif (directory / "memory.swap.max").exists():
            cgroup.limits(swap=self.swap)
        cgroup.write("pids", "pids.max", "pids.max", "max" if self.pids is None else self.pids)


NO_LIMITS = Limits(None, None, None, None)
SIZES = st.integers(32 * MIB, 1 << 36)


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    memory = draw(st.none() | SIZES)
    swap = None if memory is None else draw(st.none() | st.integers(0, 1 << 36))
    cpus = draw(st.none() | st.integers(2, 128).map(lambda parts: parts / 32))  # whole us
    return Limits(memory, swap, cpus, draw(st.none() | st.integers(50, 5000)))


#: CPUs of a level, and of the one below.
CPUSETS = st.sets(st.sampled_from(sorted(os.sched_getaffinity(0))), min_size=1).flatmap(
    lambda cpus: st.tuples(st.just(cpus), st.sets(st.sampled_from(sorted(cpus)), min_size=1))
)


def _smallest(*limits: float | None) -> float | None:
    return min([limit for limit in limits if limit is not None], default=None)


def test_files_calls_and_service_say_the_same(daemon: Daemon) -> None:
    """Of an idle container; asked again where something has changed while they were asked."""
    every = cpulist.render(sorted(os.sched_getaffinity(0))).decode()
    with (
        contextlib.closing(Values(Options(), 0.0, "auto")) as values,
        Cgroup() as parent,
        Container(daemon.mountpoint, parent=parent) as made,
    ):
        container = values.container_of(made.pid, {})
        assert container is not None

        @settings(max_examples=60, deadline=None)
        @given(outer=limits(), own=limits(), cpusets=CPUSETS)
        def agree(outer: Limits, own: Limits, cpusets: tuple[set[int], set[int]]) -> None:
            for level in (parent, made.cgroup):  # a cpuset is within the one above
                level.limits(cpuset=every)
            for level, cpus in zip((made.cgroup, parent), reversed(cpusets), strict=True):
                level.limits(cpuset=cpulist.render(sorted(cpus)).decode())
            if own.cpus is not None and "cpu" in made.cgroup.paths:
                # v1 refuses a quota above the parent's with EINVAL (tg_cfs_schedulable_down).
                own = own._replace(cpus=_smallest(outer.cpus, own.cpus))
            NO_LIMITS.write(made.cgroup)
            outer.write(parent)
            own.write(made.cgroup)
            found = wait_until(
                lambda: _told(daemon, made, values, container),
                DEADLINE_S,
                what="files of an idle container that say what the service says",
            )
            memory = _smallest(outer.memory, own.memory)
            page = resource.getpagesize()
            assert found["memory"]["limit_bytes"] == (memory and memory // page * page)
            assert found["cpu"]["quota"] == _smallest(outer.cpus, own.cpus)
            assert set(found["cpu"]["cpuset"]) == cpusets[1]
            assert found["processes"]["limit"] == _smallest(outer.pids, own.pids)

        agree()


def _told(
    daemon: Daemon, made: Container, values: Values, container: ContainerSource
) -> dict[str, Any] | None:
    """Return what the service says, if files and calls say the same; None while it changes."""

    def ask() -> dict[str, Any]:
        return get(path_of(daemon), f"/v1/processes/{made.pid}")[1]

    before = ask()
    shown = meminfo.read(_read(daemon, made, "proc/meminfo"))
    lists = [_read(daemon, made, f"sys/devices/system/{name}/online") for name in ("cpu", "node")]
    stat = _read(daemon, made, "proc/stat")
    info, cpus = values.info(container), values.visible(container)
    after = ask()
    if any(before[part] != after[part] for part in ("cpu", "memory", "swap", "processes")):
        return None
    memory, swap = after["memory"], after["swap"]
    sizes = {
        b"MemTotal": (memory["total_bytes"], info.total),
        b"MemFree": (memory["free_bytes"], info.free),
        b"SwapTotal": (swap["total_bytes"], info.swap_total),
        b"SwapFree": (swap["free_bytes"], info.swap_free),
    }
    if after["sources"]["memory.available_bytes"]["level"] is not None:  # the machine's changes
        sizes[b"MemAvailable"] = memory["available_bytes"], None
    visible = after["cpu"]["visible"]
    assert cpus == len(visible)
    assert info.procs == after["processes"]["threads"]
    assert before["uptime_s"] <= info.uptime <= after["uptime_s"] + 1
    for name, (told, called) in sizes.items():
        assert called in (None, told >> 10 << 10), name
    # A text that grows is shown a step later than the size of its file (tree/own.py).
    files = [
        *[shown.number(name) for name in sizes],
        *[list(cpulist.parse(text)) for text in lists],
        [int(one) for one in re.findall(rb"^cpu(\d+)", stat, re.MULTILINE)],
    ]
    service = [told >> 10 << 10 for told, _ in sizes.values()]
    return after if files == [*service, visible, after["numa_nodes"], visible] else None


def _read(daemon: Daemon, made: Container, file: str) -> bytes:
    """Read a file of a container's own node, from outside: no process comes to the container."""
    with open(f"/proc/{made.pid}/root/{file}", "rb") as opened:
        return opened.read()


def test_the_socket_outlives_its_process(daemon: Daemon) -> None:
    path = path_of(daemon)
    inode = os.stat(path).st_ino
    for number in (signal.SIGKILL, signal.SIGABRT):
        pid = wait_until(lambda: service_of(daemon), DEADLINE_S, what="the service")
        assert line(path)["scope"]
        os.kill(pid, signal.SIGSTOP)
        with connect(path) as waiting:
            waiting.sendall(b"self\n")
            os.kill(pid, number)
            os.kill(pid, signal.SIGCONT)
            # It was not taken before the end, so the next process takes it.
            assert b'"scope"' in rest(waiting)
        assert wait_until(lambda: service_of(daemon), DEADLINE_S, what="the next one") != pid
    assert os.stat(path).st_ino == inode


def test_a_reload_and_a_replacement_reach_it(daemon: Daemon) -> None:
    for number in (signal.SIGHUP, signal.SIGUSR1):
        pid = wait_until(lambda: service_of(daemon), DEADLINE_S, what="the service")
        os.kill(daemon.keeper, number)
        wait_until(
            lambda pid=pid: service_of(daemon) not in (0, pid), DEADLINE_S, what="a new process"
        )
        assert line(path_of(daemon))["scope"]


def test_the_socket_ends_with_the_instance() -> None:
    with Daemon("--resources") as running:
        path = path_of(running)
        assert os.stat(path).st_mode & 0o777 == 0o666
        assert line(path)["scope"]
    assert not os.path.exists(path)


def test_a_thousand_connections_of_one_container_do_not_make_others_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """All of them wait, and then one of another client, when the service begins to answer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    query = Query()
    order: list[int] = []
    gate = threading.Event()
    of = query.of

    def gated(pid: int) -> resources.Resources:
        order.append(pid)
        gate.wait()
        return of(pid)

    monkeypatch.setattr(query, "of", gated)
    try:
        with Container() as made, serving(tmp_path, query) as path:
            command = [sys.executable, "-I", "-S", "-c", FLOOD, str(path), "1000"]
            with made.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as flood:
                assert flood.stdout is not None
                assert flood.stdout.readline() == b"ready\n"
                wait_until(lambda: order, what="the first request")
                with connect(path) as connection:
                    connection.sendall(b"self\n")
                    gate.set()
                    assert json.loads(rest(connection))["scope"]
                place = order.index(os.getpid())
                flood.kill()
        # The flood has 10,000 requests open. Those before ours came while connections were taken.
        assert place < MOST_EACH
    finally:
        gate.set()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
