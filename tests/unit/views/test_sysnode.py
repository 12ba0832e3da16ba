"""sys/devices/system/node of a container."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.errors import FormatError
from pylxcfs.formats import cpulist, nodememinfo
from pylxcfs.formats import meminfo as meminfo_format
from pylxcfs.units import GIB, MIB
from pylxcfs.views import meminfo, numa, sysnode
from pylxcfs.views.model import CpuLimit, CpuNumbering, Options, SysCpu
from tests.unit.views.fakes import FakeContainer, FakeHost, captured, memory

PACKED = Options(cpu_numbering=CpuNumbering.PACKED)
HIDE = Options(sys_cpu=SysCpu.HIDE)


def node_meminfo(node, total, free=None):
    free = total // 2 if free is None else free
    lines = {
        b"MemTotal": total,
        b"MemFree": free,
        b"MemUsed": total - free,
        b"Active": total // 4,
        b"Active(anon)": total // 8,
        b"Active(file)": total // 8,
        b"FilePages": total // 4,
        b"AnonPages": total // 4,
    }
    text = b"".join(b"Node %d %-16b%8d kB\n" % (node, n + b":", v) for n, v in lines.items())
    return text + b"Node %d HugePages_Total:     3\n" % node


#: Nodes 0 (2 GiB), 1 (6 GiB), 2 without memory, 4 without CPUs (8 GiB); node 3 is offline.
SIZES = {0: 2 << 20, 1: 6 << 20, 2: 0, 4: 8 << 20}
FILES = {
    "online": b"0-2,4\n",
    "possible": b"0-7\n",
    "has_memory": b"0-1,4\n",
    "has_normal_memory": b"0-1,4\n",
    "has_cpu": b"0-2\n",
    "has_generic_initiator": b"\n",
    "uevent": b"",
    **{f"node{node}/meminfo": node_meminfo(node, size) for node, size in SIZES.items()},
    "node0/cpulist": b"0-3\n",
    "node1/cpulist": b"4-7\n",
    "node2/cpulist": b"8-9\n",
    "node4/cpulist": b"\n",
    "node0/cpumap": b"00f\n",
    "node1/cpumap": b"0f0\n",
    "node2/cpumap": b"300\n",
    "node4/cpumap": b"000\n",
    "node0/distance": b"10 21 31 41\n",
    "node1/distance": b"21 10 31 41\n",
    "node2/distance": b"31 31 10 41\n",
    "node4/distance": b"41 41 41 10\n",
}
MEMINFO = b"""\
MemTotal:       16777216 kB
MemFree:         8388608 kB
MemAvailable:   12582912 kB
Active:          4194304 kB
Active(anon):    2097152 kB
Active(file):    2097152 kB
AnonPages:       4194304 kB
"""


def host():
    files = {sysnode.TREE + name: text for name, text in FILES.items()}
    return FakeHost({**files, "proc/meminfo": MEMINFO}, cpus=tuple(range(10)))


def container(mems=None, cpuset=None, values=None):
    return FakeContainer(
        memory_=values,
        mems_=None if mems is None else frozenset(mems),
        cpu_limit_=CpuLimit(None if cpuset is None else frozenset(cpuset), None),
    )


def read(name, who, options=None):
    return sysnode.render(sysnode.TREE + name, host(), who, options or Options())


LISTS = [
    # name, mems, cpuset, text
    ("online", None, None, b"0-2,4\n"),
    ("online", {0, 1, 4}, None, b"0-2,4\n"),
    ("online", {1}, None, b"1-2\n"),
    ("online", {3}, None, b"2\n"),
    ("has_memory", {1, 4}, None, b"1,4\n"),
    ("has_normal_memory", {0}, None, b"0\n"),
    ("has_cpu", {0}, {0, 4}, b"0\n"),
    ("has_cpu", None, {0, 4}, b"0-1\n"),
    ("has_cpu", {4}, {0}, b"\n"),
    ("has_cpu", {4}, {8}, b"2\n"),
    ("has_generic_initiator", {0}, None, b"\n"),
    ("possible", {0}, None, None),
    ("uevent", {0}, None, None),
    ("node0/cpulist", None, {1, 3, 5}, b"1,3\n"),
    ("node1/cpulist", None, {1, 3, 5}, b"5\n"),
    ("node2/cpulist", None, {1, 3, 5}, b"\n"),
    ("node0/cpumap", None, {1, 3, 5}, b"00a\n"),
    ("node1/cpumap", None, {1, 3, 5}, b"020\n"),
    ("node2/cpumap", None, {1, 3, 5}, b"000\n"),
    ("node1/distance", {1, 4}, None, b"10 31 41\n"),
    ("node0/numastat", {0}, None, None),
    ("node0/power/control", {0}, None, None),
    ("nodex/meminfo", {0}, None, None),
]


@pytest.mark.parametrize(("name", "mems", "cpuset", "text"), LISTS)
def test_lists_name_what_is_visible(name, mems, cpuset, text):
    assert read(name, container(mems, cpuset)) == text


def test_packed_numbers_stay_in_their_nodes():
    who = container(cpuset={2, 3, 5})
    assert read("node0/cpulist", who, PACKED) == b"0-1\n"
    assert read("node1/cpulist", who, PACKED) == b"2\n"
    assert read("node1/cpumap", who, PACKED) == b"004\n"


HIDDEN = [
    ("node0", True),
    ("node0/meminfo", True),
    ("node1", False),
    ("node1/meminfo", False),
    ("node1/cpu5", False),
    ("node2", False),  # has no memory, so mems cannot name it
    ("node4", True),
    ("online", False),
    ("power", False),
    ("nodexyz", False),
]


@pytest.mark.parametrize(("name", "expected"), HIDDEN)
def test_nodes_outside_are_hidden(name, expected):
    path = sysnode.TREE + name
    assert sysnode.hidden(path, host(), container({1}, {4}), Options()) is expected


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("node1/cpu4", HIDE, False),
        ("node1/cpu5", HIDE, True),
        ("node1/cpu5", Options(), False),
        ("node1/cpulist", HIDE, False),
    ],
)
def test_links_to_hidden_cpus_are_hidden_with_them(name, options, expected):
    path = sysnode.TREE + name
    assert sysnode.hidden(path, host(), container({1}, {4}), options) is expected


def test_without_a_cpuset_nothing_is_hidden():
    names = [name for name in FILES if "/" in name]
    assert not any(
        sysnode.hidden(sysnode.TREE + name, host(), container(), Options()) for name in names
    )


def test_kernels_without_has_memory():
    machine = host()
    del machine.files[sysnode.TREE + "has_memory"]
    assert numa.visible(machine, container({1})) == (1,)


def test_a_node_that_went_since_leaves_nothing_to_narrow_to():
    machine = FakeHost({sysnode.TREE + "online": b"0\n", sysnode.TREE + "has_memory": b"0\n"})
    assert numa.visible(machine, container({1})) == (0,)


def nodes(who, options=None):
    texts = [read(f"node{node}/meminfo", who, options) for node in numa.visible(host(), who)]
    return dict(map(nodememinfo.parse, texts))


def test_memory_is_spread_over_the_nodes_by_their_size():
    values = memory(limit=4 * GIB, usage=GIB, stat={b"anon": 512 * MIB, b"file": 256 * MIB})
    seen = nodes(container(values=values))
    told = {
        name: [info.number(name) // MIB for info in seen.values()]
        for name in (b"MemTotal", b"MemFree", b"MemUsed", b"AnonPages", b"FilePages")
    }
    assert told == {
        b"MemTotal": [512, 1536, 0, 2048],
        b"MemFree": [384, 1152, 0, 1536],
        b"MemUsed": [128, 384, 0, 512],
        b"AnonPages": [64, 192, 0, 256],
        b"FilePages": [32, 96, 0, 128],
    }
    assert {info.number(b"HugePages_Total") for info in seen.values()} == {3}


def test_fewer_nodes_hold_the_same_memory():
    values = memory(limit=4 * GIB, usage=GIB)
    seen = nodes(container({0, 1}, values=values))
    assert {node: info.number(b"MemTotal") // MIB for node, info in seen.items()} == {
        0: 1024,
        1: 3072,
        2: 0,
    }


def test_all_memory_was_free_on_nodes_that_have_less_than_the_limit():
    """The GiB in use was taken from the 2 GiB of the limit that are on other nodes."""
    seen = nodes(container({0}, values=memory(limit=4 * GIB, usage=GIB)))
    assert seen[0].number(b"MemTotal") == 2 * GIB
    assert seen[0].number(b"MemFree") == GIB
    assert seen[0].number(b"MemUsed") == GIB


def test_without_a_memory_controller_nodes_are_the_hosts():
    assert read("node0/meminfo", container()) is None
    assert read("node0/meminfo", container({1}, values=memory())) is None


def test_a_distance_of_another_machine_is_a_format_error():
    machine = host()
    machine.files[sysnode.TREE + "node0/distance"] = b"10 21\n"
    with pytest.raises(FormatError):
        sysnode.render(sysnode.TREE + "node0/distance", machine, container({0}), Options())


@pytest.mark.parametrize(
    "directory",
    [path for path in captured() if (path / numa.TREE).is_dir()],
    ids=lambda path: path.name,
)
def test_on_captured_hosts_a_free_container_sees_the_hosts_nodes(directory):
    machine = FakeHost(directory=directory)
    machine.cpus = cpulist.parse(machine.read("sys/devices/system/cpu/online"))
    tree = directory / sysnode.TREE
    files = [path for path in (*tree.glob("*"), *tree.glob("node*/*")) if path.is_file()]
    paths = [path.relative_to(directory).as_posix() for path in files]
    assert paths
    for path in paths:
        text = sysnode.render(path, machine, FakeContainer(), Options())
        assert text is None or text == machine.read(path)


@given(st.integers(0, 2**40), st.lists(st.integers(0, 2**30), max_size=8))
def test_spread_parts_add_up_and_fit(amount, sizes):
    amount = min(amount, sum(sizes))
    parts = sysnode.spread(amount, sizes)
    assert sum(parts) == amount
    assert all(0 <= part <= size for part, size in zip(parts, sizes, strict=True))


@given(
    st.none() | st.sets(st.sampled_from([0, 1, 4]), min_size=1),
    st.builds(
        memory,
        limit=st.none() | st.integers(0, 2**35),
        usage=st.integers(0, 2**35),
        stat=st.dictionaries(
            st.sampled_from([b"anon", b"file", b"active_anon"]), st.integers(0, 2**35)
        ),
    ),
)
def test_nodes_add_up_to_meminfo(mems, values):
    who = container(mems, values=values)
    whole = meminfo_format.parse(meminfo.render(host(), who, Options()))
    seen = nodes(who)
    room = sum(SIZES[node] for node in seen) * 1024
    total = min(whole.number(b"MemTotal"), room)
    assert sum(info.number(b"MemTotal") for info in seen.values()) == total
    used = whole.number(b"MemTotal") - whole.number(b"MemFree")
    assert sum(info.number(b"MemUsed") for info in seen.values()) == min(used, total)
    for node, info in seen.items():
        total = info.number(b"MemTotal")
        assert info.number(b"MemFree") + info.number(b"MemUsed") == total
        for name in info:
            assert info.number(name) >= 0
        assert total <= SIZES[node] * 1024
