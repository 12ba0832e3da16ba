"""/sys/devices/system/cpu of a container."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.formats import cpulist
from pylxcfs.views import cpus, stat, syscpu
from pylxcfs.views.model import CpuLimit, CpuNumbering, CpuUsage, CpuView, Options, SysCpu
from tests.unit.views.fakes import HOSTS, FakeContainer, FakeHost

CPU = "sys/devices/system/cpu"
FILES = {
    f"{CPU}/online": b"0-3\n",
    f"{CPU}/offline": b"4-7\n",
    f"{CPU}/possible": b"0-7\n",
    f"{CPU}/present": b"0-3\n",
    f"{CPU}/kernel_max": b"8191\n",
    f"{CPU}/isolated": b"\n",
    f"{CPU}/smt/active": b"1\n",
    **{f"{CPU}/cpu{cpu}/topology/thread_siblings": b"03\n" for cpu in (0, 1)},
    **{f"{CPU}/cpu{cpu}/topology/thread_siblings_list": b"0-1\n" for cpu in (0, 1)},
    f"{CPU}/cpu1/cache/index3/shared_cpu_list": b"0-3\n",
    f"{CPU}/cpu1/cpu_capacity": b"512\n",
    f"{CPU}/cpu2/cpu_capacity": b"1024\n",
    # cpu0 has no online file, as on most x86
    **{f"{CPU}/cpu{cpu}/online": b"1\n" for cpu in (1, 2, 3)},
    **{f"{CPU}/cpu{cpu}/topology/core_id": b"%d\n" % (cpu // 2) for cpu in range(4)},
    **{f"{CPU}/cpu{cpu}/topology/core_siblings_list": b"0-3\n" for cpu in range(4)},
    **{f"{CPU}/cpu{cpu}/topology/core_siblings": b"0f\n" for cpu in range(4)},
    f"{CPU}/cpu2/topology/thread_siblings": b"0c\n",
    f"{CPU}/cpu2/topology/thread_siblings_list": b"2-3\n",
    f"{CPU}/cpu2/cache/index3/shared_cpu_list": b"0-3\n",
    f"{CPU}/cpu2/cache/index3/shared_cpu_map": b"00000000,0000000f\n",
    f"{CPU}/cpu2/cache/index3/size": b"32768K\n",
}
HOST = FakeHost(files=FILES, cpus=(0, 1, 2, 3))
#: CPUs 1 and 2
SEEN = FakeContainer(cpu_limit_=CpuLimit(frozenset({1, 2}), None))
HIDE = Options(sys_cpu=SysCpu.HIDE)
PACKED = Options(cpu_numbering=CpuNumbering.PACKED)

CASES = [
    # path, default, hide, packed
    ("online", b"1-2\n", b"1-2\n", b"0-1\n"),
    ("offline", b"0,3-7\n", b"0,3-7\n", b"2-7\n"),
    ("possible", None, None, None),
    ("present", None, b"1-2\n", None),
    ("enabled", None, b"1-2\n", None),
    ("kernel_max", None, None, None),
    ("isolated", None, None, None),
    ("smt/active", None, None, None),
    ("cpu0/online", None, None, None),
    ("cpu1/online", b"1\n", b"1\n", b"1\n"),
    ("cpu2/online", b"1\n", b"1\n", b"0\n"),
    ("cpu3/online", b"0\n", b"0\n", b"0\n"),
    ("cpu2/topology/core_id", None, None, None),
    ("cpu2/topology/core_siblings_list", b"1-2\n", b"1-2\n", b"0-1\n"),
    ("cpu2/topology/core_siblings", b"06\n", b"06\n", b"03\n"),
    ("cpu2/topology/thread_siblings_list", b"2\n", b"2\n", b"1\n"),
    ("cpu2/topology/thread_siblings", b"04\n", b"04\n", b"02\n"),
    ("cpu2/cache/index3/shared_cpu_list", b"1-2\n", b"1-2\n", b"0-1\n"),
    ("cpu2/cache/index3/shared_cpu_map", b"00000000,00000006\n", b"00000000,00000006\n", None),
    ("cpu2/cache/index3/size", None, None, None),
    ("cpu1/topology/thread_siblings_list", b"1\n", b"1\n", b"1\n"),
    ("cpu1/topology/thread_siblings", b"02\n", b"02\n", b"02\n"),
    ("cpu0/topology/thread_siblings_list", b"1\n", b"1\n", b"0\n"),
    ("cpu0/topology/thread_siblings", b"02\n", b"02\n", b"01\n"),
    ("cpu0/topology/core_id", None, None, b"0\n"),
    ("cpu1/topology/core_id", None, None, b"1\n"),
    ("cpu0/cpu_capacity", None, None, b"512\n"),
    ("cpu1/cpu_capacity", None, None, b"1024\n"),
    ("cpu1/cache/index3/size", None, None, b"32768K\n"),
    ("cpu1/cache/index3/shared_cpu_list", b"1-2\n", b"1-2\n", b"0-1\n"),
    ("cpufreq/online", None, None, None),
]


@pytest.mark.parametrize(("path", "default", "hide", "packed"), CASES)
def test_render(path, default, hide, packed):
    assert syscpu.render(f"{CPU}/{path}", HOST, SEEN, Options()) == default
    assert syscpu.render(f"{CPU}/{path}", HOST, SEEN, HIDE) == hide
    if path != "cpu2/cache/index3/shared_cpu_map":
        assert syscpu.render(f"{CPU}/{path}", HOST, SEEN, PACKED) == packed


@pytest.mark.parametrize(
    ("name", "count", "cpuset"),
    [
        ("debian12-qemu-64cpu-4node-6.1", 64, {20, 21, 22, 23, 40}),
        ("debian12-qemu-8cpu-2node-6.1", 8, {3, 6, 7}),
        ("debian12-firecracker-2cpu-6.18", 2, {1}),
    ],
)
def test_packed_cpus_were_in_no_core_of_the_topology(name, count, cpuset):
    """lstopo found no PU: the files were of other CPUs, and their lists had real numbers."""
    host = FakeHost(directory=HOSTS / name, cpus=tuple(range(count)))
    seen = FakeContainer(cpu_limit_=CpuLimit(frozenset(cpuset), None))
    online = cpulist.parse(syscpu.render(f"{CPU}/online", host, seen, PACKED))
    assert online == tuple(range(len(cpuset)))
    for cpu, real in zip(online, sorted(cpuset), strict=True):
        assert not syscpu.hidden(f"{CPU}/cpu{cpu}/topology", host, seen, PACKED)
        for file in host.list(f"{CPU}/cpu{cpu}/topology"):
            path = f"{CPU}/cpu{cpu}/topology/{file}"
            text = syscpu.render(path, host, seen, PACKED) or host.read(path)
            its = host.read(f"{CPU}/cpu{real}/topology/{file}")
            if file.endswith("_list"):
                names = dict(zip(sorted(cpuset), online, strict=True))
                members = [names[number] for number in cpulist.parse(its) if number in names]
                assert list(cpulist.parse(text)) == members
                assert cpu in members
            elif file.endswith(("_cpus", "_siblings")):
                assert cpu in cpulist.parse_mask(text)[0]
                assert set(cpulist.parse_mask(text)[0]) <= set(online)
            else:
                assert text == its


@pytest.mark.parametrize(
    ("path", "default", "hide"),
    [
        ("cpu1", False, False),
        ("cpu1/topology", False, False),
        ("cpu0", False, True),
        ("cpu3", False, True),
        ("cpu3/online", False, True),
        ("cpu3/topology", True, True),
        ("cpu3/topology/core_cpus_list", True, True),
        ("cpu3/cache", True, True),
        ("cpu3/node0", False, True),
        ("cpufreq", False, False),
        ("cpuidle", False, False),
        ("online", False, False),
        ("present", False, False),
    ],
)
def test_hidden(path, default, hide):
    assert syscpu.hidden(f"{CPU}/{path}", HOST, SEEN, Options()) is default
    assert syscpu.hidden(f"{CPU}/{path}", HOST, SEEN, HIDE) is hide


def test_all_cpus_visible_leaves_no_cpu_offline():
    host = FakeHost(files={f"{CPU}/possible": b"0-1\n"}, cpus=(0, 1))
    assert syscpu.render(f"{CPU}/offline", host, FakeContainer(), Options()) == b"\n"


def test_the_tree_itself_is_never_hidden():
    assert not syscpu.hidden(CPU, HOST, SEEN, HIDE)
    assert syscpu.render(CPU, HOST, SEEN, HIDE) is None


STAT = b"cpu  0 0 0 0\n" + b"".join(b"cpu%d 0 0 0 0\n" % cpu for cpu in range(4)) + b"intr 0\n"


@given(
    st.frozensets(st.integers(0, 3), min_size=1),
    st.none() | st.floats(0.1, 5),
    st.builds(
        Options,
        cpu_view=st.sampled_from(CpuView),
        cpu_numbering=st.sampled_from(CpuNumbering),
        sys_cpu=st.sampled_from(SysCpu),
    ),
)
def test_all_files_agree_on_the_cpus(cpuset, quota, options):
    host = FakeHost(files={**FILES, "proc/stat": STAT}, cpus=(0, 1, 2, 3))
    seen = FakeContainer(cpu_limit_=CpuLimit(cpuset, quota), cpu_usage_=CpuUsage(0, 0, None))
    online = cpulist.parse(syscpu.render(f"{CPU}/online", host, seen, options))
    offline = cpulist.parse(syscpu.render(f"{CPU}/offline", host, seen, options))
    assert online == cpus.shown(cpus.visible(host, seen, options), options)
    assert sorted(online + offline) == list(range(8))
    lines = stat.render(host, seen, options).split(b"intr")[0].splitlines()[1:]
    assert [int(line.split()[0][3:]) for line in lines] == list(online)
    for cpu in (1, 2, 3):
        text = syscpu.render(f"{CPU}/cpu{cpu}/online", host, seen, options)
        assert text == (b"1\n" if cpu in online else b"0\n")
        gone = syscpu.hidden(f"{CPU}/cpu{cpu}/topology", host, seen, options)
        assert gone is (cpu not in online)
