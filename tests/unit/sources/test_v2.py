"""Readers of cgroup v2."""

from __future__ import annotations

import pytest

from pylxcfs.errors import Gone
from pylxcfs.sources.readers import Readers
from pylxcfs.views.model import BlockIO, CpuLimit, CpuUsage, Memory

PATHS = {"": "/a/b"}
MEMORY = {"memory.current": "20480\n", "memory.max": "max\n", "memory.stat": "anon 4096\nfile 0\n"}
SWAP = {"memory.swap.current": "100\n", "memory.swap.max": "max\n"}


@pytest.fixture
def readers(tree):
    tree.v2("cpuset cpu io memory pids")
    tree.cgroup("a/b", {"cgroup.controllers": "cpuset cpu io memory pids\n"})
    return lambda: Readers(tree.hierarchies(), PATHS)


def test_memory(tree, readers):
    tree.cgroup("a/b", MEMORY | SWAP | {"memory.max": "1000000\n"})
    assert readers().memory() == Memory(
        limit=1000000,
        usage=20480,
        swap_limit=None,
        swap_usage=100,
        swappiness=None,
        stat={b"anon": 4096, b"file": 0},
    )


def test_the_smallest_limits_of_all_ancestors_count(tree, readers):
    tree.cgroup("a/b", MEMORY | SWAP | {"memory.max": "1000000\n", "memory.swap.max": "5\n"})
    tree.cgroup("a", {"memory.max": "600000\n", "memory.swap.max": "7\n"})
    found = readers().memory()
    assert (found.limit, found.swap_limit) == (600000, 5)


def test_what_siblings_use_was_left(tree, readers):
    """The least over all levels of a level's limit minus its own usage."""
    tree.cgroup("a/b", MEMORY | SWAP | {"memory.max": "500000\n", "memory.swap.max": "900\n"})
    tree.cgroup("a", {"memory.max": "600000\n", "memory.current": "590000\n"})
    tree.cgroup("a", {"memory.swap.max": "1000\n", "memory.swap.current": "1100\n"})
    source = readers()
    for _ in range(3):
        found = source.memory()
        assert (found.limit, found.usage, found.left) == (500000, 20480, 10000)
        assert (found.swap_limit, found.swap_usage, found.swap_left) == (900, 100, -100)
    tree.cgroup("a", {"memory.current": "30000\n"})
    assert source.memory().left == 570000


def test_ancestors_without_a_limit_leave_what_there_is(tree, readers):
    tree.cgroup("a/b", MEMORY | SWAP | {"memory.max": "500000\n"})
    tree.cgroup("a", {"memory.max": "max\n", "memory.current": "590000\n"})
    found = readers().memory()
    assert (found.left, found.swap_left) == (None, None)


def test_without_swap_accounting_swap_is_unknown(tree, readers):
    tree.cgroup("a/b", MEMORY)
    found = readers().memory()
    assert (found.swap_usage, found.swap_limit) == (None, None)


def test_where_memory_is_not_enabled_the_closest_ancestor_counts(tree, readers):
    tree.cgroup("a", MEMORY | {"memory.max": "600000\n"})
    found = readers().memory()
    assert (found.limit, found.usage) == (600000, 20480)


def test_where_memory_is_enabled_nowhere_it_is_the_hosts(tree, readers):
    assert readers().memory() is None


def test_enabling_a_controller_is_noticed(tree, readers):
    found = readers()
    assert not found.outdated()
    tree.cgroup("a/b", {"cgroup.controllers": "memory\n"})
    assert found.outdated()


@pytest.mark.parametrize(
    ("own", "parent", "quota"),
    [
        ("max 100000\n", "max 100000\n", None),
        ("150000 100000\n", "max 100000\n", 1.5),
        ("max 100000\n", "50000 100000\n", 0.5),
        ("300000 100000\n", "40000 20000\n", 2.0),
    ],
)
def test_the_smallest_quota_counts(tree, readers, own, parent, quota):
    tree.cgroup("a/b", {"cpu.max": own})
    tree.cgroup("a", {"cpu.max": parent})
    assert readers().cpu_limit() == CpuLimit(cpuset=None, quota=quota)


def test_the_cpuset_is_the_effective_one(tree, readers):
    files = {"cpuset.cpus": "0-7\n", "cpuset.cpus.effective": "0-1\n"}
    tree.cgroup("a/b", files | {"cpuset.mems": "\n", "cpuset.mems.effective": "0\n"})
    found = readers()
    assert found.cpu_limit().cpuset == {0, 1}
    assert found.mems() == {0}


def test_where_cpuset_is_not_enabled_the_closest_ancestor_counts(tree, readers):
    tree.cgroup("a", {"cpuset.cpus.effective": "2-3\n", "cpuset.mems.effective": "1\n"})
    found = readers()
    assert found.cpu_limit().cpuset == {2, 3}
    assert found.mems() == {1}


def test_usage_is_a_total(tree, readers):
    tree.cgroup("a/b", {"cpu.stat": "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnice_usec 1\n"})
    assert readers().cpu_usage() == CpuUsage(3000, 2000, None, 1000)


def test_block_io(tree, readers):
    line = "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n"
    tree.cgroup("a/b", {"io.stat": line, "io.max": ""})
    assert readers().block_io() == {
        (8, 0): BlockIO(read_bytes=1, write_bytes=2, reads=3, writes=4, discard_bytes=5, discards=6)
    }


def test_block_io_of_the_root_is_not_taken_for_a_containers(tree, readers):
    tree.cgroup("", {"io.stat": "8:0 rbytes=1\n"})
    assert readers().block_io() is None


def test_pressure(tree, readers):
    tree.cgroup("a/b", {"io.pressure": "some avg10=0.00\n", "memory.pressure": ""})
    found = readers()
    assert found.pressure("io") == b"some avg10=0.00\n"
    assert found.pressure("memory") is None
    assert found.pressure("irq") is None
    assert found.pressure("nothing") is None


def test_the_root_is_the_host(tree):
    tree.v2("memory")
    tree.cgroup("", {"cpu.stat": "user_usec 1\nsystem_usec 1\n", "io.stat": "8:0 rbytes=1\n"})
    found = Readers(tree.hierarchies(), {"": "/"})
    assert found.cpu_usage() is None
    assert found.block_io() is None
    assert found.pressure("cpu") is None


def test_a_removed_cgroup_is_gone(tree, readers):
    found = readers()
    for file in (tree.root / "sys/fs/cgroup/a/b").iterdir():
        file.unlink()
    (tree.root / "sys/fs/cgroup/a/b").rmdir()
    with pytest.raises(Gone):
        found.cpu_usage()


def test_limits_in_the_middle_of_sixty_levels_were_left_out(tree):
    tree.v2("cpu memory")
    path = "/".join(f"l{level}" for level in range(60))
    tree.cgroup(path, MEMORY | SWAP)
    half = "/".join(path.split("/")[:30])
    tree.cgroup(half, {"cpu.max": "50000 100000\n", "memory.max": "1000000\n"})
    tree.cgroup(half, {"memory.current": "900000\n", "memory.swap.max": "7\n"})
    found = Readers(tree.hierarchies(), {"": f"/{path}"})
    for _ in range(3):
        memory = found.memory()
        assert (memory.limit, memory.left, memory.swap_limit) == (1000000, 100000, 7)
        assert found.cpu_limit() == CpuLimit(None, 0.5)


def test_the_memory_of_a_threaded_cgroup_is_its_domains(tree, readers):
    """Threaded cgroups have cpu.stat and cpu.max, but no file of memory or io."""
    tree.cgroup("a", MEMORY | SWAP | {"memory.max": "1000000\n", "io.max": "", "io.stat": ""})
    tree.cgroup("a/b", {"cpu.stat": "user_usec 3\nsystem_usec 2\n", "cpu.max": "50000 100000\n"})
    found = readers()
    assert (found.memory().limit, found.memory().left) == (1000000, None)
    assert found.cpu_usage() == CpuUsage(3000, 2000, None)
    assert found.cpu_limit() == CpuLimit(None, 0.5)
    assert found.block_io() == {}
