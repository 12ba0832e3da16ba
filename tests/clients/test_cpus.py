"""Programs that count CPUs: what a quota of one CPU and a cpuset look like to each."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.clients.conftest import MEMORY
from tests.conftest import require, wait_until
from tests.kit.container import Container
from tests.kit.daemon import Daemon
from tests.kit.wellformed import cpu_numbers

ONLINE = sorted(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def last_cpu(daemon: Daemon) -> Iterator[Container]:
    """No quota, and a cpuset of the last CPU alone."""
    if len(ONLINE) < 2:
        require("cpus", "there is only one CPU")
    with Container(daemon.mountpoint, cpuset=str(ONLINE[-1])) as container:
        yield container


def _say(container: Container, *argv: str) -> str:
    return container.exec(argv, env={**os.environ, "LC_ALL": "C"}).stdout.decode().strip()


def _lscpu(container: Container) -> dict[str, str]:
    lines = _say(container, "lscpu").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_files_agree_on_one_cpu(small: Container) -> None:
    for name in ("cpuinfo", "stat"):
        assert cpu_numbers(f"proc/{name}", small.read(f"/proc/{name}")) == ONLINE[:1], name
    assert _say(small, "cat", "/sys/devices/system/cpu/online") == str(ONLINE[0])


def test_glibc_counts_one_cpu_online(small: Container) -> None:
    assert _say(small, "getconf", "_NPROCESSORS_ONLN") == "1"
    script = "import os; print(os.cpu_count())"
    assert _say(small, sys.executable, "-c", script) == "1"


def test_lscpu_lists_one_cpu_online_and_the_rest_offline(small: Container) -> None:
    shown = _lscpu(small)
    assert shown["On-line CPU(s) list"] == str(ONLINE[0])
    if len(ONLINE) == 2:
        assert shown["Off-line CPU(s) list"] == str(ONLINE[1])
    assert shown["NUMA node0 CPU(s)"] == str(ONLINE[0])
    listed = [line for line in _say(small, "lscpu", "-p=cpu").splitlines() if line[0] != "#"]
    assert listed == [str(ONLINE[0])]


def test_nproc_all_counts_configured_cpus(small: Container) -> None:
    # Like the kernel with a CPU offline: it is possible still, and its directory is there.
    assert _say(small, "nproc", "--all") == str(os.sysconf("SC_NPROCESSORS_CONF"))


def test_hidden_cpus_are_not_counted_by_who_counts_directories(
    hiding: Daemon, program: Callable[[str], str]
) -> None:
    with Container(hiding.mountpoint, cpus=1) as container:
        assert _say(container, program("busybox"), "nproc", "--all") == "1"
        assert _lscpu(container)["CPU(s)"] == "1"
        # glibc before 2.34 counts directories, a later one what is possible.
        assert _say(container, "nproc", "--all") in ("1", str(os.sysconf("SC_NPROCESSORS_CONF")))


def test_a_cpuset_keeps_the_number_of_its_cpu(last_cpu: Container) -> None:
    last = ONLINE[-1]
    for name in ("cpuinfo", "stat"):
        assert cpu_numbers(f"proc/{name}", last_cpu.read(f"/proc/{name}")) == [last], name
    assert _lscpu(last_cpu)["On-line CPU(s) list"] == str(last)
    assert _say(last_cpu, "nproc") == "1"
    affinity = "import os; print(sorted(os.sched_getaffinity(0)))"
    assert _say(last_cpu, sys.executable, "-c", affinity) == str([last])


def test_numactl_agrees_with_the_cpus_and_the_memory(
    small: Container, program: Callable[[str], str]
) -> None:
    shown = {}
    for line in _say(small, program("numactl"), "-H").splitlines():
        key, _, value = line.partition(":")
        shown[key] = value.split()
    assert shown["node 0 cpus"] == [str(ONLINE[0])]
    assert int(shown["node 0 size"][0]) <= MEMORY >> 20


@pytest.mark.parametrize("cpus", [0.5, 1.0, 1.5, 2.0])
def test_a_quota_is_rounded_up(daemon: Daemon, cpus: float) -> None:
    if len(ONLINE) < 2:
        require("cpus", "there is only one CPU")
    with Container(daemon.mountpoint, cpus=cpus) as container:
        assert _say(container, "getconf", "_NPROCESSORS_ONLN") == str(math.ceil(cpus))
        container.limits(cpus=None)
        every = str(len(ONLINE))
        wait_until(
            lambda: _say(container, "getconf", "_NPROCESSORS_ONLN") == every, what="all CPUs"
        )
