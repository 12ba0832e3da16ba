"""Golden texts: every file of every captured host, for three containers.

After an intended change, write them with PYLXCFS_GOLDEN=write pytest
tests/unit/views/test_golden.py, and review the diff.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from pylxcfs.errors import SourceError
from pylxcfs.formats import cpulist
from pylxcfs.units import GIB, MIB, NS_PER_S
from pylxcfs.views import VIEWS, syscpu, sysnode
from pylxcfs.views.model import (
    BlockIO,
    CpuLimit,
    CpuNumbering,
    CpuUsage,
    Load,
    Memory,
    Options,
)
from tests.unit.views.fakes import HOSTS, FakeContainer, FakeHost

GOLDEN = HOSTS.parent / "golden"
NOW = 100_000 * NS_PER_S
SYSFS = (
    "sys/devices/system/cpu/online",
    "sys/devices/system/cpu/offline",
    "sys/devices/system/node/online",
    "sys/devices/system/node/node0/cpulist",
    "sys/devices/system/node/node0/meminfo",
)
STAT = {b"anon": 300 * MIB, b"file": 200 * MIB, b"shmem": 10 * MIB, b"inactive_file": 120 * MIB}
STAT |= {b"active_file": 80 * MIB, b"inactive_anon": 200 * MIB, b"active_anon": 100 * MIB}
STAT |= {b"slab_reclaimable": 20 * MIB, b"slab_unreclaimable": 5 * MIB, b"file_mapped": 50 * MIB}
STAT |= {b"slab": 25 * MIB, b"kernel_stack": MIB, b"pagetables": 2 * MIB, b"pgfault": 4711}


@dataclass(frozen=True)
class Scenario:
    """A container, and the options of its views."""

    container: FakeContainer
    options: Options


def scenario(name: str) -> Scenario:
    if name == "one-cpu-2-gib-on-v2":
        container = FakeContainer(
            memory_=Memory(2 * GIB, 600 * MIB, GIB, 64 * MIB, None, STAT),
            cpu_limit_=CpuLimit(None, 1.0),
            cpu_usage_=CpuUsage(700 * NS_PER_S, 300 * NS_PER_S, None),
            block_io_={(8, 0): BlockIO(read_bytes=4096, reads=1)},
            pressure_={"cpu": b"some avg10=1.00 avg60=0.50 avg300=0.10 total=4711\n"},
            started_ns_=NOW - 5_000 * NS_PER_S,
            load_=Load((0.25, 0.5, 0.75), 1, 20, 77),
        )
        return Scenario(container, Options(vmstat=True))
    if name == "second-cpu-packed-on-v1":
        container = FakeContainer(
            memory_=Memory(512 * MIB, 100 * MIB, 0, 0, 60, STAT),
            cpu_limit_=CpuLimit(frozenset({1}), None),
            cpu_usage_=CpuUsage(3 * NS_PER_S, NS_PER_S, {0: (0, 0), 1: (3 * NS_PER_S, NS_PER_S)}),
            mems_=frozenset({0}),
            started_ns_=NOW - 60 * NS_PER_S,
        )
        return Scenario(container, Options(cpu_numbering=CpuNumbering.PACKED))
    return Scenario(FakeContainer(started_ns_=NOW - NS_PER_S), Options())


def rendered(directory: Path, name: str) -> bytes:
    online = (directory / "sys/devices/system/cpu/online").read_bytes()
    host = FakeHost(directory=directory, cpus=cpulist.parse(online), now=NOW)
    seen = scenario(name)
    parts = []
    for view in VIEWS:
        if (directory / view.host).exists() and view.enabled(seen.options):
            text = view.render(host, seen.container, seen.options)
            parts.append(b"==> %b <==\n%b" % (view.path.encode(), text))
    for path in SYSFS:
        module = syscpu if "/cpu/" in path else sysnode
        if not (directory / path).exists() or module.hidden(
            path, host, seen.container, seen.options
        ):
            continue
        try:
            text = module.render(path, host, seen.container, seen.options)
        except SourceError:
            continue  # the capture lacks a file
        parts.append(b"==> %b <==\n%b" % (path.encode(), host.read(path) if text is None else text))
    return b"".join(parts)


@pytest.mark.parametrize("name", ["one-cpu-2-gib-on-v2", "second-cpu-packed-on-v1", "unlimited"])
@pytest.mark.parametrize("directory", sorted(HOSTS.iterdir()), ids=lambda path: path.name)
def test_what_containers_see_is_what_it_was(directory: Path, name: str) -> None:
    golden = GOLDEN / f"{directory.name}.{name}"
    now = rendered(directory, name)
    if os.environ.get("PYLXCFS_GOLDEN") == "write":
        golden.parent.mkdir(exist_ok=True)
        golden.write_bytes(now)
    assert now == golden.read_bytes()
