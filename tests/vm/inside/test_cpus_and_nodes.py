"""Eight CPUs on two nodes (0-3 and 4-7): which of them a container sees, file by file."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pylxcfs.formats import cpulist
from pylxcfs.sources.containers import ContainerSource
from pylxcfs.sources.procfs import HostFiles
from pylxcfs.views import VIEWS, syscpu, sysnode
from pylxcfs.views.model import CpuNumbering, CpuView, Options
from tests.conftest import wait_until
from tests.kit.cgroups import Cgroup
from tests.kit.container import Container

CPU = "sys/devices/system/cpu"
NODE = "sys/devices/system/node"
PACKED = Options(cpu_numbering=CpuNumbering.PACKED)
CPUSET_ONLY = Options(cpu_view=CpuView.CPUSET)
MIB = 1 << 20

Source = Callable[[Container], ContainerSource]


class Seen:
    """What a container reads."""

    def __init__(self, host: HostFiles, container: ContainerSource, options: Options) -> None:
        self._of = (host, container, options)
        self._host = host

    def file(self, path: str) -> bytes:
        return next(view for view in VIEWS if view.path == path).render(*self._of)

    def sysfs(self, path: str) -> bytes:
        view = sysnode if path.startswith(NODE) else syscpu
        rendered = view.render(path, *self._of)
        return self._host.read(path) if rendered is None else rendered

    def hidden(self, path: str) -> bool:
        return (sysnode if path.startswith(NODE) else syscpu).hidden(path, *self._of)

    def numbers(self, path: str) -> list[int]:
        return list(cpulist.parse(self.sysfs(path)))

    def cpus(self) -> list[int]:
        """Return the CPUs that it sees; every file has to tell the same."""
        cpuinfo = re.findall(rb"^processor\t: (\d+)$", self.file("proc/cpuinfo"), re.MULTILINE)
        stat = re.findall(rb"^cpu(\d+) ", self.file("proc/stat"), re.MULTILINE)
        told = [int(number) for number in cpuinfo]
        assert told == [int(number) for number in stat]
        assert told == self.numbers(f"{CPU}/online")
        on_nodes = [self.numbers(f"{NODE}/node{node}/cpulist") for node in (0, 1)]
        assert told == sorted(itertools.chain(*on_nodes))
        offline = self.numbers(f"{CPU}/offline")
        assert sorted(told + offline) == list(range(8))
        return told


@pytest.fixture
def look(host: HostFiles, source: Source) -> Iterator[Callable[..., Seen]]:
    """Return a function: what one container sees, with its limits set anew for each look."""
    with Container() as container:
        found = source(container)

        def look(options: Options = Options(), **limits: object) -> Seen:  # noqa: B008
            container.cgroup.limits(**{"cpus": None, "cpuset": "0-7", "mems": "0-1", **limits})
            return Seen(host, found, options)

        yield look


@pytest.mark.parametrize(
    ("cpuset", "cpus", "physical"),
    [
        ("0-7", None, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("1,3-5", None, [1, 3, 4, 5]),
        ("7", None, [7]),
        ("0-7", 2.5, [0, 1, 2]),
        ("2-7", 2.0, [2, 3]),
        ("3,5,7", 1.5, [3, 5]),
        ("4-5", 6.0, [4, 5]),
    ],
)
def test_cpuset_and_quota_make_the_view(
    look: Callable[..., Seen], cpuset: str, cpus: float | None, physical: list[int]
) -> None:
    assert look(cpuset=cpuset, cpus=cpus).cpus() == physical
    packed = look(PACKED, cpuset=cpuset, cpus=cpus)
    assert packed.cpus() == list(range(len(physical)))


def test_the_cpuset_view_knows_no_quota(look: Callable[..., Seen]) -> None:
    assert look(CPUSET_ONLY, cpuset="2-6", cpus=1.0).cpus() == [2, 3, 4, 5, 6]


def test_an_ancestors_quota_counts(host: HostFiles, source: Source) -> None:
    with Cgroup() as parent:
        parent.limits(cpus=3.0, cpuset="1-6")
        with Container(parent=parent, cpus=5.0) as container:
            seen = Seen(host, source(container), Options())
            assert seen.cpus() == [1, 2, 3]


def test_one_cpu_file_each(look: Callable[..., Seen]) -> None:
    seen = look(cpuset="1-4")
    assert [seen.sysfs(f"{CPU}/cpu{number}/online") for number in range(1, 8)] == [
        b"1\n" if number in (1, 2, 3, 4) else b"0\n" for number in range(1, 8)
    ]
    assert not seen.hidden(f"{CPU}/cpu6")


def test_cpus_are_told_on_their_nodes(look: Callable[..., Seen]) -> None:
    seen = look(cpuset="1,3-5")
    assert seen.sysfs(f"{NODE}/node0/cpulist") == b"1,3\n"
    assert seen.sysfs(f"{NODE}/node1/cpulist") == b"4-5\n"
    assert int(seen.sysfs(f"{NODE}/node1/cpumap"), 16) == 0b110000


def test_a_node_outside_cpuset_mems_is_hidden(look: Callable[..., Seen]) -> None:
    seen = look(cpuset="4-7", mems="1")
    assert seen.hidden(f"{NODE}/node0")
    assert not seen.hidden(f"{NODE}/node1")
    assert seen.numbers(f"{NODE}/online") == [1]
    assert seen.numbers(f"{NODE}/has_cpu") == [1]


def test_node_memory_adds_up_to_the_limit(look: Callable[..., Seen]) -> None:
    seen = look(memory=600 * MIB)
    assert total(seen.file("proc/meminfo")) == 600 * MIB
    assert sum(total(seen.sysfs(f"{NODE}/node{node}/meminfo")) for node in (0, 1)) == 600 * MIB
    one = look(memory=600 * MIB, mems="0")
    assert total(one.sysfs(f"{NODE}/node0/meminfo")) == 600 * MIB


def total(text: bytes) -> int:
    match = re.search(rb"MemTotal: +(\d+) kB", text)
    assert match is not None
    return int(match[1]) * 1024


def test_time_is_the_containers_and_lines_add_up(host: HostFiles, source: Source) -> None:
    with Container(cpuset="2-6", cpus=3.0) as container:
        seen = Seen(host, source(container), Options())
        before = busy(seen)["cpu"]
        script = "i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done"
        container.exec(["sh", "-c", script])
        used = ticks(container)
        after = wait_until(lambda: told if (told := busy(seen))["cpu"] > before else None, what="t")
        assert set(after) == {"cpu", "cpu2", "cpu3", "cpu4"}
        # Of three lines, user and system are whole ticks each.
        assert used - 6 < after["cpu"] <= ticks(container)
        # The sum is rounded once, as the kernel's is, and each line's two columns for themselves.
        parts = sum(after.values()) - after["cpu"]
        assert parts <= after["cpu"] < parts + 2 * 3


def ticks(container: Container) -> float:
    """Return the CPU time that the container has had."""
    return container.cgroup.stat("cpu", "cpu.stat")["usage_usec"] / 10_000


def busy(seen: Seen) -> dict[str, int]:
    """Return user and system ticks per line of stat."""
    lines = seen.file("proc/stat").decode().splitlines()
    fields = [line.split() for line in lines if line.startswith("cpu")]
    return {name: int(user) + int(nice) + int(system) for name, user, nice, system, *_ in fields}


def test_a_cpu_that_goes_offline_leaves_the_view(look: Callable[..., Seen]) -> None:
    switch = Path(f"/{CPU}/cpu7/online")
    switch.write_text("0")
    try:
        seen = look(cpuset="6-7")
        wait_until(lambda: seen.numbers(f"{CPU}/online") == [6], what="CPU 7 to leave")
        assert seen.cpus() == [6]
    finally:
        switch.write_text("1")
    wait_until(lambda: look(cpuset="6-7").numbers(f"{CPU}/online") == [6, 7], what="CPU 7")
