"""Made-up hosts whose machine is a captured one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.unit.sources.trees import Tree
from tests.unit.views.fakes import HOSTS

#: Two CPUs, 24 GiB, no swap.
SMALL = HOSTS / "debian12-firecracker-2cpu-6.18"
#: Eight CPUs on two nodes.
LARGE = HOSTS / "debian12-qemu-8cpu-2node-6.1"

STAT_V1 = "hierarchical_memory_limit {limit}\nhierarchical_memsw_limit {memsw}\ntotal_swap {swap}\n"
NO_LIMIT_V1 = 9223372036854771712
MIB = 1 << 20


def made_up(root: Path, host: Path) -> Tree:
    """Return a machine with the files of a captured host, and no cgroup hierarchies yet."""
    shutil.copytree(host / "proc", root / "proc")
    tree = Tree(root)
    for name in ("cpu/online", "cpu/possible", "node/online", "node/has_memory"):
        path = f"sys/devices/system/{name}"
        tree.write(path, (host / path).read_text())
    tree.write("proc/1/stat", "1 (init) S 0 1 1 0 -1 0 0 0 0 0 7 5 0 0 20 0 1 0 0 0 0 0\n")
    return tree


def v2_cgroup(
    tree: Tree,
    directory: str,
    *,
    memory: str = "max",
    usage: int = 5 * MIB,
    swap: str = "max",
    cpu: str = "max 100000",
    pids: str = "max",
    cpus: str = "0-1",
) -> None:
    """Make a cgroup with all controllers, as the kernel shows it."""
    tree.cgroup(
        directory,
        {
            "cgroup.controllers": "cpuset cpu memory pids hugetlb\n",
            "cgroup.subtree_control": "\n",
            "cgroup.events": "populated 1\nfrozen 0\n",
            "memory.max": f"{memory}\n",
            "memory.current": f"{usage}\n",
            "memory.swap.max": f"{swap}\n",
            "memory.swap.current": "0\n",
            "memory.stat": "anon 4096\nfile 8192\nactive_file 4096\ninactive_file 4096\n",
            "cpu.max": f"{cpu}\n",
            "cpu.weight": "39\n",
            "cpu.stat": "usage_usec 5\nuser_usec 3\nsystem_usec 2\n",
            "pids.max": f"{pids}\n",
            "pids.current": "3\n",
            "cpuset.cpus.effective": f"{cpus}\n",
            "cpuset.mems.effective": "0\n",
            "hugetlb.2MB.max": "max\n",
            "hugetlb.2MB.current": "0\n",
            "cpu.pressure": "some avg10=1.50 avg60=0.00 avg300=0.00 total=7\n",
        },
    )


def v1_cgroup(
    tree: Tree,
    name: str,
    *,
    memory: int = NO_LIMIT_V1,
    quota: int = -1,
    pids: str = "max",
    cpus: str = "0-1",
) -> None:
    """Make a cgroup in each of four v1 hierarchies. `memory` is its own limit and the effective."""
    tree.cgroup(
        f"memory/{name}",
        {
            "memory.limit_in_bytes": f"{memory}\n",
            "memory.usage_in_bytes": f"{5 * MIB}\n",
            "memory.memsw.limit_in_bytes": f"{NO_LIMIT_V1}\n",
            "memory.memsw.usage_in_bytes": f"{5 * MIB}\n",
            "memory.use_hierarchy": "1\n",
            "memory.swappiness": "60\n",
            "memory.stat": STAT_V1.format(limit=memory, memsw=NO_LIMIT_V1, swap=0),
        },
    )
    tree.cgroup(
        f"cpu/{name}",
        {
            "cpu.cfs_quota_us": f"{quota}\n",
            "cpu.cfs_period_us": "100000\n",
            "cpu.shares": "512\n",
        },
    )
    tree.cgroup(f"pids/{name}", {"pids.max": f"{pids}\n", "pids.current": "3\n"})
    tree.cgroup(
        f"cpuset/{name}", {"cpuset.effective_cpus": f"{cpus}\n", "cpuset.effective_mems": "0\n"}
    )


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return made_up(tmp_path, SMALL)


@pytest.fixture
def v2(tree: Tree) -> Tree:
    """A machine with v2; this process is in /a/b."""
    tree.v2("cpuset cpu memory pids hugetlb")
    tree.write("proc/self/cgroup", "0::/a/b\n")
    for size in ("2048", "1048576"):
        (tree.root / f"sys/kernel/mm/hugepages/hugepages-{size}kB").mkdir(parents=True)
    return tree


@pytest.fixture
def v1(tree: Tree) -> Tree:
    """A machine with v1; this process is in /a/b."""
    for name in ("memory", "cpu", "pids", "cpuset"):
        tree.v1(name)
    tree.write("proc/self/cgroup", "4:memory:/a/b\n3:cpu:/a/b\n2:pids:/a/b\n1:cpuset:/a/b\n")
    return tree
