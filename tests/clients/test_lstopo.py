"""hwloc, which compares the CPUs of the files with the cpuset of the cgroup."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator

import pytest

from tests.clients.conftest import MEMORY
from tests.conftest import require
from tests.kit.container import Container
from tests.kit.daemon import Daemon

ONLINE = sorted(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def packing(daemon: Daemon) -> Iterator[Daemon]:
    """A second daemon, with --cpu-numbering=packed."""
    with Daemon("--cpu-numbering=packed") as running:
        yield running


@pytest.fixture
def lstopo(program: Callable[[str], str]) -> Callable[..., str]:
    """Return a function that runs lstopo in a container."""
    path = program("lstopo-no-graphics")

    def run(container: Container, *options: str) -> str:
        argv = [path, "--of", "console", "--no-io", *options]
        return container.exec(argv, env={**os.environ, "LC_ALL": "C"}).stdout.decode()

    return run


def _units(text: str) -> list[int]:
    """Return the numbers that the kernel has for the processing units."""
    return [int(number) for number in re.findall(r"PU L#\d+ \(P#(\d+)\)", text)]


def test_one_cpu_and_the_limit(small: Container, lstopo: Callable[..., str]) -> None:
    text = lstopo(small)
    assert _units(text) == ONLINE[:1], text
    sizes = re.findall(r"(?:Machine|NUMANode L#\d+) \((?:P#\d+ )?(\d+)MB", text)
    assert sizes == [str(MEMORY >> 20)] * 2, text


def test_a_cpuset_keeps_the_number_of_its_cpu(daemon: Daemon, lstopo: Callable[..., str]) -> None:
    with Container(daemon.mountpoint, cpuset=str(ONLINE[-1])) as container:
        assert _units(lstopo(container)) == ONLINE[-1:]


def test_packed_numbers_with_a_quota(packing: Daemon, lstopo: Callable[..., str]) -> None:
    with Container(packing.mountpoint, memory=MEMORY, cpus=1) as container:
        assert _units(lstopo(container)) == [0]


def test_packed_numbers_with_a_cpuset(packing: Daemon, lstopo: Callable[..., str]) -> None:
    # The cgroup's own cpuset has the kernel's numbers, and lstopo drops every CPU outside it; so
    # it must not compare.
    if len(ONLINE) < 2:
        require("cpus", "there is only one CPU")
    with Container(packing.mountpoint, memory=MEMORY, cpuset=str(ONLINE[-1])) as container:
        assert _units(lstopo(container, "--disallowed")) == [0]
