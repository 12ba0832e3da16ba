"""The trees of sysfs: which a host has, and which view each path belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest

from pylxcfs.tree import nodes
from pylxcfs.tree.contents import Contents
from pylxcfs.tree.guard import Guard
from pylxcfs.tree.sysfs import CPU, MEMORY, NODE, SysTree
from pylxcfs.tree.tree import Tree
from pylxcfs.units import MIB
from pylxcfs.views.model import CpuLimit, Options
from tests.unit.views.fakes import FakeContainer, FakeHost, memory

FILES = {
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


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path, text in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(text)
    return tmp_path


def names(root: Path) -> tuple[set[bytes], set[bytes]]:
    tree = Tree([], [], SysTree(str(root)))
    shared = {entry.name for entry in tree.children(nodes.SYSTEM)}
    return shared, {entry.name for entry in tree.children(nodes.OWN_SYSTEM)}


def test_every_tree_of_the_host_is_there(root: Path) -> None:
    assert names(root) == ({b"cpu", b"node", b"memory"},) * 2
    tree = Tree([], [], SysTree(str(root)))
    # In the ids that kernels hold: never another.
    links = {name: tree.child(nodes.SYSTEM, name) for name in (b"cpu", b"node", b"memory")}
    assert links == {b"cpu": 9, b"node": 10, b"memory": 11}
    assert tree.link_target(11, b"5") == b"../../../by-pidns/5/sys/devices/system/memory"


def test_a_tree_that_the_host_has_not_is_not_served(root: Path) -> None:
    (root / MEMORY).rename(root / "elsewhere")
    assert names(root) == ({b"cpu", b"node"},) * 2


def test_a_number_is_understood_by_the_server_that_comes_next(root: Path) -> None:
    path = f"{MEMORY}/memory1/state"
    index = SysTree(str(root)).index(path)
    assert index is not None
    assert SysTree(str(root)).path(index) == path


def test_each_tree_has_its_own_view(root: Path) -> None:
    sysfs = SysTree(str(root))
    contents = Contents([], sysfs, FakeHost(FILES, directory=root), Options(), Guard())

    def text(path: str) -> bytes:
        index = sysfs.index(path)
        assert index is not None
        return contents.render(index, SMALL)

    assert text(f"{CPU}/online") == b"1\n"
    assert text(f"{NODE}/node0/cpulist") == b"1\n"
    assert text(f"{MEMORY}/block_size_bytes") == b"8000000\n"
    for directory in (f"{NODE}/node0", MEMORY):
        assert not contents.hidden(f"{directory}/memory0", SMALL)
        assert contents.hidden(f"{directory}/memory1", SMALL)
        assert not contents.hidden(f"{directory}/memory1", None)
