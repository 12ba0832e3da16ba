"""The numbers inside a container with 1 CPU and 2 GiB: on v1 here, on v2 in the virtual machine."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.conftest import wait_until
from tests.kit.cgroups import Cgroup
from tests.kit.container import Container
from tests.kit.daemon import Daemon
from tests.kit.wellformed import check, cpu_numbers

GIB = 1 << 30


@pytest.fixture(scope="module")
def small(daemon: Daemon) -> Iterator[Container]:
    with Container(daemon.mountpoint, memory=2 * GIB, cpus=1) as container:
        yield container


def meminfo(container: Container) -> dict[str, int]:
    text = container.read("/proc/meminfo").decode()
    return {name: int(kib) for name, kib in re.findall(r"^(\S+): +(\d+)", text, re.MULTILINE)}


def test_memory_is_the_limit(small: Container) -> None:
    assert b"MemTotal:        2097152 kB\n" in small.read("/proc/meminfo")


def test_cpuinfo_has_one_processor(small: Container) -> None:
    assert len(cpu_numbers("proc/cpuinfo", small.read("/proc/cpuinfo"))) == 1


def test_stat_has_one_cpu_line(small: Container) -> None:
    assert len(cpu_numbers("proc/stat", small.read("/proc/stat"))) == 1


def test_sysfs_has_one_cpu_online(small: Container) -> None:
    assert small.read("/sys/devices/system/cpu/online") == b"0\n"
    assert small.read("/sys/devices/system/cpu/offline").strip() != b""


def test_uptime_is_the_age_of_init(small: Container) -> None:
    ours = float(small.read("/proc/uptime").split()[0])
    with open("/proc/uptime") as file:
        now = float(file.read().split()[0])
    with open(f"/proc/{small.pid}/stat") as file:
        started = int(file.read().rpartition(")")[2].split()[19]) / 100
    assert abs(now - started - ours) < 1.0


def test_loadavg_counts_the_containers_own_threads(small: Container) -> None:
    _, _, _, threads, _ = small.read("/proc/loadavg").split()
    _, total = threads.split(b"/")
    # The init, and the program that reads.
    assert 1 <= int(total) <= 5


def test_every_file_is_whole(daemon: Daemon, small: Container) -> None:
    for name in ["meminfo", "cpuinfo", "stat", "uptime", "loadavg", "swaps", "diskstats"]:
        check(f"proc/{name}", small.read(f"/proc/{name}"))


def test_the_smallest_limit_above_counts(daemon: Daemon) -> None:
    with Cgroup() as outer:
        outer.limits(memory=GIB, cpus=1)
        with Container(daemon.mountpoint, parent=outer, memory=4 * GIB) as container:
            assert meminfo(container)["MemTotal"] == GIB // 1024
            assert container.read("/sys/devices/system/cpu/online") == b"0\n"


def test_a_changed_limit_shows(daemon: Daemon) -> None:
    with Container(daemon.mountpoint, memory=GIB) as container:
        assert meminfo(container)["MemTotal"] == GIB // 1024
        container.limits(memory=2 * GIB)
        wait_until(
            lambda: meminfo(container)["MemTotal"] == 2 * GIB // 1024, what="the raised limit"
        )


def test_a_cgroup_deleted_under_an_open_file_gives_the_new_ones_values(daemon: Daemon) -> None:
    reader = (
        "import sys\n"
        "file = open('/proc/meminfo', 'rb', buffering=0)\n"
        "while sys.stdin.readline():\n"
        "    file.seek(0)\n"
        "    print(file.read().split()[1].decode(), flush=True)\n"
    )
    with Cgroup() as elsewhere, Cgroup() as first:
        elsewhere.limits(memory=GIB)
        with Container(daemon.mountpoint, cgroup=first, memory=2 * GIB) as container:
            process = container.popen(
                [sys.executable, "-c", reader],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )

            def read() -> str:
                process.stdin.write("again\n")
                return process.stdout.readline()

            with process:
                assert read() == f"{2 * GIB // 1024}\n"
                for pid in first.pids():
                    for path in elsewhere.procs:
                        path.write_text(str(pid))
                first.remove()
                wait_until(lambda: read() == f"{GIB // 1024}\n", what="the new cgroup's limit")
                process.stdin.close()


def test_an_init_that_is_moved_takes_its_new_cgroups_values(daemon: Daemon) -> None:
    with Cgroup() as elsewhere:
        elsewhere.limits(memory=GIB)
        with Container(daemon.mountpoint, memory=2 * GIB) as container:
            assert meminfo(container)["MemTotal"] == 2 * GIB // 1024
            for path in elsewhere.procs:
                path.write_text(str(container.pid))
            wait_until(
                lambda: meminfo(container)["MemTotal"] == GIB // 1024,
                what="the limit of the cgroup that init was moved to",
            )
            for path in container.cgroup.procs:
                path.write_text(str(container.pid))
