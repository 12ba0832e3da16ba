"""From a file and a container to bytes; every failure of a view shows the host's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from pylxcfs.errors import SourceError
from pylxcfs.guard import Guard
from pylxcfs.tree import nodes
from pylxcfs.tree.contents import Contents
from pylxcfs.tree.sysfs import CPU, MEMORY, NODE, SysTree
from pylxcfs.units import MIB
from pylxcfs.views.model import CpuLimit, Options
from tests.unit.tree.kit import (
    CPUINFO,
    HOST_TEXT,
    LOADAVG,
    MEMINFO,
    PRESSURE,
    VIEWS,
    A,
    World,
    view,
)
from tests.unit.views.fakes import FakeContainer, FakeHost, memory

SYSFS = {
    "proc/meminfo": b"MemTotal: 600000 kB\nMemFree: 400000 kB\n",
    f"{CPU}/online": b"0-1\n",
    f"{NODE}/online": b"0\n",
    f"{NODE}/has_memory": b"0\n",
    f"{NODE}/node0/cpulist": b"0-1\n",
    f"{NODE}/node0/memory0/state": b"online\n",
    f"{NODE}/node0/memory1/state": b"online\n",
    f"{MEMORY}/block_size_bytes": b"8000000\n",
    f"{MEMORY}/memory0/state": b"online\n",
    f"{MEMORY}/memory1/state": b"online\n",
}
SMALL = FakeContainer(memory_=memory(limit=100 * MIB), cpu_limit_=CpuLimit(frozenset({1}), None))


def test_a_container_has_its_text_and_nobody_has_the_hosts(world: World) -> None:
    assert world.contents.render(MEMINFO, world.containers.live[A, 0]) == b"text of A\n"
    assert world.contents.render(MEMINFO, None) == HOST_TEXT


@pytest.mark.parametrize("text", [b"bug", b"", None])
def test_a_view_that_fails_or_says_nothing_shows_the_hosts_file(
    world: World, text: bytes | None
) -> None:
    container = world.containers.live[A, 0]
    if text is None:
        del container.texts["proc/meminfo"]
    else:
        container.texts["proc/meminfo"] = text
    assert world.contents.render(MEMINFO, container) == HOST_TEXT


def test_with_virtualisation_off_every_file_is_the_hosts(world: World) -> None:
    world.contents.virtual = False
    assert world.contents.render(MEMINFO, world.containers.live[A, 0]) == HOST_TEXT


def test_a_view_that_is_switched_off_is_the_hosts(world: World) -> None:
    row = view("proc/meminfo", enabled=lambda options: options.vmstat)
    for options, text in (
        (Options(vmstat=True), b"text of A\n"),
        (Options(vmstat=False), HOST_TEXT),
    ):
        contents = Contents([row], SysTree(str(world.root)), world.host, options, Guard())
        assert contents.render(MEMINFO, world.containers.live[A, 0]) == text


def test_a_host_file_that_cannot_be_read_is_said(world: World) -> None:
    del world.host.files["proc/meminfo"]
    world.host.directory = None
    world.say(b"bug")
    for container in (None, world.containers.live[A, 0]):
        with pytest.raises(SourceError):
            world.contents.render(MEMINFO, container)


def test_a_32_bit_reader_differs_where_the_file_does(world: World) -> None:
    container = world.containers.live[A, 0]
    assert world.contents.render(CPUINFO, container, compat=True) == b"text of A\n32 bits\n"
    assert world.contents.render(CPUINFO, container) == b"text of A\n"
    assert world.contents.by_personality(CPUINFO)
    assert not world.contents.by_personality(MEMINFO)
    without = Contents(VIEWS, SysTree(str(world.root)), world.host, Options(), Guard())
    assert not without.by_personality(CPUINFO)


def test_what_a_view_says_of_itself(world: World) -> None:
    contents = world.contents
    assert contents.lives(LOADAVG) == 10
    assert contents.lives(MEMINFO) == contents.lives(nodes.SYSFS + 5) == 1
    assert contents.takes_triggers(PRESSURE)
    assert not contents.takes_triggers(MEMINFO)
    assert not contents.takes_triggers(nodes.PROC)
    assert not contents.takes_triggers(nodes.SYSFS + 5)


@pytest.mark.parametrize("index", [0, 5, 127, nodes.FILES + len(VIEWS), 255])
def test_a_number_that_no_view_has_is_an_error_of_ours(world: World, index: int) -> None:
    for attempt in (world.contents.path, world.contents.lives):
        with pytest.raises(SourceError, match="no file has the number"):
            attempt(index)


def test_a_number_that_sysfs_has_not_is_an_error_of_ours(world: World) -> None:
    with pytest.raises(SourceError, match="no file of sysfs"):
        world.contents.path(nodes.SYSFS + 1)


@pytest.fixture
def small(tmp_path: Path) -> tuple[Contents, SysTree]:
    for path, text in SYSFS.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(text)
    sysfs = SysTree(str(tmp_path))
    return Contents([], sysfs, FakeHost(SYSFS, directory=tmp_path), Options(), Guard()), sysfs


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (f"{CPU}/online", b"1\n"),
        (f"{NODE}/node0/cpulist", b"1\n"),
        (f"{MEMORY}/block_size_bytes", b"8000000\n"),
    ],
)
def test_each_tree_of_sysfs_has_its_own_view(
    small: tuple[Contents, SysTree], path: str, text: bytes
) -> None:
    contents, sysfs = small
    index = sysfs.index(path)
    assert index is not None
    assert contents.render(index, SMALL) == text
    assert contents.render(index, None) == SYSFS[path]


def test_blocks_of_memory_beyond_the_limit_are_hidden(small: tuple[Contents, SysTree]) -> None:
    contents, _ = small
    for directory in (f"{NODE}/node0", MEMORY):
        assert not contents.hidden(f"{directory}/memory0", SMALL)
        assert contents.hidden(f"{directory}/memory1", SMALL)
        assert not contents.hidden(f"{directory}/memory1", None)


def test_renderings_are_counted(world: World) -> None:
    container, counts = world.containers.live[A, 0], world.contents.counts
    for _ in range(3):
        world.contents.render(MEMINFO, container)
    world.contents.render(MEMINFO, None)
    assert counts.renderings[MEMINFO - nodes.FILES] == 4
    assert counts.spent_ns[MEMINFO - nodes.FILES] > 0
    assert container.renderings == 3
    assert sum(counts.renderings) == 4


def test_files_of_sysfs_are_counted_as_one(small: tuple[Contents, SysTree]) -> None:
    contents, sysfs = small
    for path in (f"{CPU}/online", f"{NODE}/online"):
        contents.render(sysfs.index(path), SMALL)
    assert contents.counts.renderings[nodes.SYSFS - nodes.FILES] == 2
