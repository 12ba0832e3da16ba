"""Readers of cgroup v1."""

from __future__ import annotations

import pytest

from pylxcfs.errors import FormatError
from pylxcfs.sources.readers import Readers
from pylxcfs.views.model import BlockIO, CpuLimit, CpuUsage

NONE = "9223372036854771712\n"
PATHS = dict.fromkeys(("memory", "cpu", "cpuacct", "cpuset", "blkio"), "/a/b")
STAT = "cache 1\nrss 1\ntotal_cache 4096\ntotal_rss 8192\ntotal_swap 512\n"
HIERARCHICAL = "hierarchical_memory_limit 1000000\nhierarchical_memsw_limit 1500000\n"


@pytest.fixture
def readers(tree):
    for controller in PATHS:
        tree.v1(controller)
        tree.cgroup(f"{controller}/a/b", {})
    return lambda: Readers(tree.hierarchies(), PATHS)


def memory(tree, **files):
    tree.cgroup(
        "memory/a/b",
        {"memory.usage_in_bytes": "20480\n", "memory.stat": STAT}
        | {f"memory.{name}": text for name, text in files.items()},
    )


def test_memory_has_the_smallest_limit_of_the_kernels_own_reckoning(tree, readers):
    memory(tree, stat=STAT + HIERARCHICAL, limit_in_bytes=NONE)
    tree.cgroup("memory/a/b", {"memory.memsw.usage_in_bytes": "30000\n"})
    found = readers().memory()
    assert found.limit == 1000000
    assert found.usage == 20480
    assert found.swap_limit == 500000
    assert found.swap_usage == 512
    assert found.stat == {b"file": 4096, b"anon": 8192}


def test_memory_walks_up_where_the_kernel_does_not_reckon(tree, readers):
    memory(tree, limit_in_bytes=NONE)
    tree.cgroup("memory/a", {"memory.limit_in_bytes": "700000\n"})
    tree.cgroup("memory", {"memory.limit_in_bytes": NONE})
    assert readers().memory().limit == 700000


@pytest.mark.parametrize(("hierarchical", "left"), [("1\n", 50000), ("0\n", None)])
def test_what_siblings_use_was_left(tree, readers, hierarchical, left):
    memory(tree, stat=STAT + HIERARCHICAL)
    tree.cgroup("memory/a", {"memory.limit_in_bytes": "1000000\n"})
    tree.cgroup("memory/a", {"memory.usage_in_bytes": "950000\n"})
    tree.cgroup("memory/a", {"memory.use_hierarchy": hierarchical})
    source = readers()
    for _ in range(3):
        assert source.memory().left == left


def test_swap_that_siblings_use_was_left(tree, readers):
    memory(tree, stat=STAT + HIERARCHICAL)
    tree.cgroup("memory/a/b", {"memory.memsw.usage_in_bytes": "30000\n"})
    for name, limit, usage in (("", 1000000, 950000), ("memsw.", 1500000, 1150000)):
        files = {f"memory.{name}limit_in_bytes": f"{limit}\n"}
        tree.cgroup("memory/a", files | {f"memory.{name}usage_in_bytes": f"{usage}\n"})
    found = readers().memory()
    # The sum leaves 350000, of which 50000 can be memory.
    assert (found.left, found.swap_left) == (50000, 300000)


def test_no_limit_is_none(tree, readers):
    limits = f"hierarchical_memory_limit {NONE}hierarchical_memsw_limit {NONE}"
    memory(tree, stat=STAT + limits)
    tree.cgroup("memory/a/b", {"memory.memsw.usage_in_bytes": "1\n"})
    found = readers().memory()
    assert found.limit is None
    assert found.swap_limit is None


def test_without_swap_accounting_swap_is_unknown(tree, readers):
    memory(tree)
    found = readers().memory()
    assert found.swap_usage is None
    assert found.swap_limit is None
    assert found.swappiness is None


def test_swap_usage_is_reckoned_where_the_kernel_does_not_tell(tree, readers):
    memory(tree, stat="total_cache 1\n", swappiness="0\n")
    tree.cgroup("memory/a/b", {"memory.memsw.usage_in_bytes": "20580\n"})
    found = readers().memory()
    assert found.swap_usage == 100
    assert found.swappiness == 0
    tree.cgroup("memory/a/b", {"memory.memsw.usage_in_bytes": "5\n"})
    assert readers().memory().swap_usage == 0


def test_kernel_memory_is_told_where_it_is_counted(tree, readers):
    memory(tree)
    tree.cgroup("memory/a/b", {"memory.kmem.usage_in_bytes": "77\n"})
    assert readers().memory().stat[b"kernel"] == 77


def test_slabinfo(tree, readers):
    memory(tree)
    assert readers().slabinfo() is None
    tree.cgroup("memory/a/b", {"memory.kmem.slabinfo": "slabinfo - version: 2.1\n"})
    assert readers().slabinfo() == b"slabinfo - version: 2.1\n"
    tree.cgroup("memory/a/b", {"memory.kmem.slabinfo": ""})
    assert readers().slabinfo() is None


def cpu(tree, directory, quota, period="100000\n"):
    tree.cgroup(f"cpu/{directory}", {"cpu.cfs_quota_us": quota, "cpu.cfs_period_us": period})


@pytest.mark.parametrize(
    ("own", "parent", "quota"),
    [
        ("-1\n", "-1\n", None),
        ("150000\n", "-1\n", 1.5),
        ("-1\n", "50000\n", 0.5),
        ("300000\n", "200000\n", 2.0),
        ("100000\n", "200000\n", 1.0),
    ],
)
def test_the_smallest_quota_counts(tree, readers, own, parent, quota):
    cpu(tree, "a/b", own)
    cpu(tree, "a", parent)
    assert readers().cpu_limit() == CpuLimit(cpuset=None, quota=quota)


def test_effective_cpus_are_taken_where_the_kernel_tells_them(tree, readers):
    tree.cgroup("cpuset/a/b", {"cpuset.cpus": "0-3\n", "cpuset.effective_cpus": "0-1\n"})
    assert readers().cpu_limit().cpuset == {0, 1}


def test_an_empty_cpuset_is_the_parents(tree, readers):
    tree.cgroup("cpuset/a/b", {"cpuset.cpus": "\n", "cpuset.mems": "\n"})
    tree.cgroup("cpuset/a", {"cpuset.cpus": "1,3\n", "cpuset.mems": "1\n"})
    assert readers().cpu_limit().cpuset == {1, 3}
    assert readers().mems() == {1}


def test_usage_is_by_cpu(tree, readers):
    tree.cgroup("cpuacct/a/b", {"cpuacct.usage_all": "cpu user system\n0 5 6\n7 10 20\n"})
    assert readers().cpu_usage() == CpuUsage(15, 26, {0: (5, 6), 7: (10, 20)})


def test_the_exact_time_of_each_cpu_is_divided_as_the_ticks_were(tree, readers):
    files = {
        "cpuacct.usage_all": "cpu user system\n0 30 10\n2 0 0\n7 0 5\n",
        "cpuacct.usage_percpu": "44 9 6 \n",
    }
    tree.cgroup("cpuacct/a/b", files)
    assert readers().cpu_usage() == CpuUsage(42, 17, {0: (33, 11), 2: (9, 0), 7: (0, 6)})


def test_usage_of_older_kernels(tree, readers):
    files = {"cpuacct.usage_percpu_user": "5 0 \n", "cpuacct.usage_percpu_sys": "6 7 \n"}
    tree.cgroup("cpuacct/a/b", files)
    assert readers().cpu_usage() == CpuUsage(5, 13, {0: (5, 6), 1: (0, 7)})


def test_usage_of_the_oldest_kernels_is_a_total(tree, readers):
    tree.cgroup("cpuacct/a/b", {"cpuacct.stat": "user 2\nsystem 1\n"})
    assert readers().cpu_usage() == CpuUsage(20_000_000, 10_000_000, None)


def blkio(tree, prefix, name, text):
    tree.cgroup("blkio/a/b", {f"blkio.{prefix}{name}_recursive": text})


def test_block_io_comes_from_the_throttle_layer(tree, readers):
    blkio(tree, "throttle.", "io_service_bytes", "8:0 Read 4096\n8:0 Write 512\nTotal 4608\n")
    blkio(tree, "throttle.", "io_serviced", "8:0 Read 2\n8:0 Write 1\nTotal 3\n")
    blkio(tree, "bfq.", "io_service_bytes", "8:0 Read 9\nTotal 9\n")
    blkio(tree, "bfq.", "io_serviced", "Total 0\n")
    assert readers().block_io() == {
        (8, 0): BlockIO(read_bytes=4096, write_bytes=512, reads=2, writes=1)
    }


def test_block_io_of_a_scheduler_fills_in(tree, readers):
    blkio(tree, "throttle.", "io_service_bytes", "8:0 Read 0\nTotal 0\n")
    blkio(tree, "throttle.", "io_serviced", "Total 0\n")
    blkio(tree, "", "io_service_bytes", "8:0 Read 4096\nTotal 4096\n")
    blkio(tree, "", "io_serviced", "8:0 Read 1\nTotal 1\n")
    blkio(tree, "", "io_merged", "8:0 Read 3\nTotal 3\n")
    blkio(tree, "", "io_service_time", "8:0 Read 10\n8:0 Total 10\nTotal 10\n")
    blkio(tree, "", "io_wait_time", "8:0 Read 5\nTotal 5\n")
    assert readers().block_io() == {
        (8, 0): BlockIO(read_bytes=4096, reads=1, reads_merged=3, read_ns=15, busy_ns=10)
    }


@pytest.mark.parametrize("own", ["Total 0\n", "8:0 Read 0\n8:0 Total 0\nTotal 0\n"])
def test_block_io_that_nobody_counts_is_no_value(tree, readers, own):
    """As on Linux 6.1 to 6.18 without a throttle rule, whatever was read and written."""
    for directory in "blkio", "blkio/a", "blkio/a/b":
        for name in "io_service_bytes", "io_serviced":
            tree.cgroup(directory, {f"blkio.throttle.{name}_recursive": own})
        tree.cgroup(directory, {"blkio.throttle.write_bps_device": ""})
    assert readers().block_io() is None


@pytest.mark.parametrize(
    ("directory", "name", "text"),
    [
        ("blkio", "blkio.throttle.io_serviced_recursive", "8:0 Read 1\nTotal 1\n"),
        ("blkio", "blkio.bfq.io_serviced_recursive", "8:0 Read 1\nTotal 1\n"),
        ("blkio/a", "blkio.throttle.write_bps_device", "8:0 1048576\n"),
        ("blkio/a/b", "blkio.throttle.read_iops_device", "8:0 100\n"),
    ],
)
def test_no_block_io_is_a_value_where_it_is_counted(tree, readers, directory, name, text):
    for file in "io_service_bytes", "io_serviced":
        blkio(tree, "throttle.", file, "Total 0\n")
    tree.cgroup(directory, {name: text})
    assert readers().block_io() == {}


def test_absent_files_are_none(tree, readers):
    found = readers()
    assert found.memory() is None
    assert found.cpu_limit() == CpuLimit(cpuset=None, quota=None)
    assert found.cpu_usage() is None
    assert found.block_io() is None
    assert found.mems() is None
    assert found.pressure("cpu") is None


def test_the_root_is_the_host(tree):
    tree.v1("memory")
    tree.cgroup("memory", {"memory.usage_in_bytes": "1\n", "memory.stat": STAT})
    assert Readers(tree.hierarchies(), {"memory": "/"}).memory() is None


def test_nonsense_is_a_format_error(tree, readers):
    memory(tree, stat="what\n")
    with pytest.raises(FormatError):
        readers().memory()
