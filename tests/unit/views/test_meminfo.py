"""proc/meminfo of a container."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.errors import Gone, SourceError
from pylxcfs.formats import meminfo as format_
from pylxcfs.units import GIB, KIB, MIB
from pylxcfs.views import meminfo
from pylxcfs.views.model import Options
from tests.unit.views.fakes import FakeContainer, FakeHost, captured, memory

LINES = b"""\
MemTotal:       16777216 kB
MemFree:         8388608 kB
MemAvailable:   12582912 kB
Buffers:          999999 kB
Cached:          4999999 kB
SwapCached:       999999 kB
Active:          5999999 kB
Inactive:        5999999 kB
Active(anon):    2999999 kB
Inactive(anon):  2999999 kB
Active(file):    2999999 kB
Inactive(file):  2999999 kB
Unevictable:      999999 kB
Mlocked:           12640 kB
SwapTotal:       4194304 kB
SwapFree:        4194304 kB
Zswap:            999999 kB
Zswapped:         999999 kB
Dirty:            999999 kB
Writeback:        999999 kB
AnonPages:       4999999 kB
Mapped:          1999999 kB
Shmem:           1999999 kB
KReclaimable:    1999999 kB
Slab:            2999999 kB
SReclaimable:    1999999 kB
SUnreclaim:       999999 kB
KernelStack:       99999 kB
PageTables:        99999 kB
SecPageTables:     99999 kB
NFS_Unstable:          0 kB
Bounce:                0 kB
WritebackTmp:          0 kB
CommitLimit:    12341828 kB
Committed_AS:    8006028 kB
VmallocTotal:   34359738367 kB
VmallocUsed:       99999 kB
VmallocChunk:          0 kB
Percpu:            99999 kB
HardwareCorrupted:     0 kB
AnonHugePages:   1999999 kB
ShmemHugePages:   999999 kB
ShmemPmdMapped:   999999 kB
FileHugePages:    999999 kB
FilePmdMapped:    999999 kB
CmaTotal:          65536 kB
HugePages_Total:       4
Hugepagesize:       2048 kB
DirectMap4k:       20480 kB
TomorrowsLine:   7777777 kB
"""

STAT = {
    b"anon": 100 * MIB,
    b"file": 80 * MIB,
    b"kernel": 30 * MIB,
    b"kernel_stack": 1 * MIB,
    b"pagetables": 2 * MIB,
    b"sec_pagetables": 3 * MIB,
    b"percpu": 4 * MIB,
    b"vmalloc": 5 * MIB,
    b"shmem": 6 * MIB,
    b"zswap": 7 * MIB,
    b"zswapped": 8 * MIB,
    b"file_mapped": 9 * MIB,
    b"file_dirty": 10 * MIB,
    b"file_writeback": 11 * MIB,
    b"swapcached": 12 * MIB,
    b"anon_thp": 14 * MIB,
    b"file_thp": 16 * MIB,
    b"shmem_thp": 18 * MIB,
    b"inactive_anon": 20 * MIB + 512,
    b"active_anon": 30 * MIB + 512,
    b"inactive_file": 40 * MIB,
    b"active_file": 50 * MIB,
    b"unevictable": 60 * MIB,
    b"slab_reclaimable": 70 * MIB,
    b"slab_unreclaimable": 17 * MIB,
    b"slab": 87 * MIB,
}

#: Values of a container of 1 GiB with the statistics above, in MiB.
GOLDEN = {
    b"MemTotal": 1024,
    b"MemFree": 768,
    b"MemAvailable": 768 + 40 + 50 + 70,
    b"Buffers": 0,
    b"Cached": 80 - 12,
    b"SwapCached": 12,
    b"Active": 80,
    b"Inactive": 60,
    b"Active(anon)": 30,
    b"Inactive(anon)": 20,
    b"Active(file)": 50,
    b"Inactive(file)": 40,
    b"Unevictable": 60,
    b"SwapTotal": 512,
    b"SwapFree": 384,
    b"Zswap": 7,
    b"Zswapped": 8,
    b"Dirty": 10,
    b"Writeback": 11,
    b"AnonPages": 100,
    b"Mapped": 9,
    b"Shmem": 6,
    b"KReclaimable": 70,
    b"Slab": 87,
    b"SReclaimable": 70,
    b"SUnreclaim": 17,
    b"KernelStack": 1,
    b"PageTables": 2,
    b"SecPageTables": 3,
    b"VmallocUsed": 5,
    b"Percpu": 4,
    b"AnonHugePages": 14,
    b"ShmemHugePages": 18,
    b"ShmemPmdMapped": 0,
    b"FileHugePages": 16,
    b"FilePmdMapped": 0,
}

#: Lines of the host, independent of the container.
HOSTS = [
    b"NFS_Unstable",
    b"Bounce",
    b"WritebackTmp",
    b"CommitLimit",
    b"Committed_AS",
    b"VmallocTotal",
    b"VmallocChunk",
    b"HardwareCorrupted",
    b"CmaTotal",
    b"HugePages_Total",
    b"Hugepagesize",
    b"DirectMap4k",
    b"TomorrowsLine",
]

CONTAINER = memory(
    limit=GIB, usage=256 * MIB, swap_limit=512 * MIB, swap_usage=128 * MIB, stat=STAT
)


def render(values, options=None, text=LINES):
    host = FakeHost({"proc/meminfo": text})
    return meminfo.render(host, FakeContainer(memory_=values), options or Options())


def test_every_line_of_a_container():
    seen = format_.parse(render(CONTAINER))
    assert {name: seen.number(name) for name in GOLDEN} == {
        name: size * MIB for name, size in GOLDEN.items()
    }
    host = format_.parse(LINES)
    assert seen.number(b"Mlocked") == host.number(b"Mlocked")  # less than its Unevictable
    assert [seen.number(name) for name in HOSTS] == [host.number(name) for name in HOSTS]
    assert list(seen) == list(host)
    assert set(seen) == {*GOLDEN, *HOSTS, b"Mlocked"}


def test_lines_are_laid_out_as_the_kernel_does():
    lines = render(CONTAINER).splitlines()
    assert lines[0] == b"MemTotal:        1048576 kB"
    assert lines[8] == b"Active(anon):      30720 kB"
    assert lines[-1] == b"TomorrowsLine:   7777777 kB"


def test_a_cgroup_that_counts_nothing_has_zeros_and_not_the_hosts():
    seen = format_.parse(render(memory(limit=GIB, usage=256 * MIB)))
    counted = set(GOLDEN) - {b"MemTotal", b"MemFree", b"MemAvailable", b"SwapTotal", b"SwapFree"}
    assert {seen.number(name) for name in counted} == {0}


def test_no_memory_controller_is_the_hosts_file():
    assert render(None) == LINES


def test_zswap_can_be_switched_off():
    seen = format_.parse(render(CONTAINER, Options(zswap=False)))
    assert seen.number(b"Zswap") == seen.number(b"Zswapped") == 0


def test_swap_can_be_switched_off():
    seen = format_.parse(render(CONTAINER, Options(swap=False)))
    assert seen.number(b"SwapTotal") == seen.number(b"SwapFree") == 0


def test_lines_that_an_older_kernel_has_not_do_not_appear():
    old = b"".join(line for line in LINES.splitlines(True) if b"swap" not in line)
    assert b"Zswap" not in render(CONTAINER, text=old)


def test_more_swap_cache_than_files_does_not_wrap():
    values = memory(limit=GIB, stat={b"file": MIB, b"swapcached": 2 * MIB})
    assert format_.parse(render(values)).number(b"Cached") == 0


def test_memory_in_use_wrapped_where_a_limit_was_lowered_below_the_page_cache():
    """BusyBox subtracts free, cached and reclaimable memory from the total, as unsigned numbers."""
    stat = {b"file": 200 * MIB, b"slab_reclaimable": 9 * MIB, b"slab_unreclaimable": MIB}
    seen = format_.parse(render(memory(limit=100 * MIB, usage=220 * MIB, stat=stat)))
    names = (b"MemTotal", b"MemFree", b"Cached", b"SReclaimable", b"KReclaimable", b"Slab")
    assert [seen.number(name) // MIB for name in names] == [100, 0, 100, 0, 0, 1]


def test_errors_are_the_callers_to_handle():
    class Deleted(FakeContainer):
        def memory(self):
            raise Gone("deleted")

    with pytest.raises(SourceError):
        meminfo.render(FakeHost({"proc/meminfo": LINES}), Deleted(), Options())
    with pytest.raises(SourceError):
        meminfo.render(FakeHost(), FakeContainer(), Options())


@pytest.mark.parametrize("directory", captured(), ids=lambda path: path.name)
def test_on_captured_hosts(directory):
    host = FakeHost(directory=directory)
    theirs = format_.parse(host.read("proc/meminfo"))
    text = meminfo.render(host, FakeContainer(memory_=memory(limit=64 * MIB, stat=STAT)), Options())
    seen = format_.parse(text)
    assert list(seen) == list(theirs)
    assert seen.number(b"MemTotal") == 64 * MIB
    for name in (b"MemTotal", b"MemAvailable", b"SwapTotal", *(set(theirs) - set(meminfo.NAMES))):
        assert seen.number(name) <= theirs.number(name)


def test_lines_were_cut_to_the_hosts():
    lines = [b"MemTotal", b"MemAvailable", b"MemFree", b"Cached", b"AnonPages", b"Percpu"]
    text = b"".join(b"%-16b%8d kB\n" % (name + b":", 1 << 20) for name in lines[:2])
    text += b"".join(b"%-16b%8d kB\n" % (name + b":", 1) for name in lines[2:])
    seen = format_.parse(render(CONTAINER, text=text))
    assert [seen.number(name) for name in lines[2:]] == [GOLDEN[name] * MIB for name in lines[2:]]


SIZE = st.integers(0, 2**45)


@given(
    st.builds(
        memory,
        limit=st.none() | SIZE,
        usage=SIZE,
        swap_limit=st.none() | SIZE,
        swap_usage=st.none() | SIZE,
        stat=st.dictionaries(st.sampled_from(list(STAT)), SIZE),
    )
)
def test_totals_are_never_more_than_the_hosts_and_nothing_is_negative(values):
    seen = format_.parse(render(values))
    host = format_.parse(LINES)
    for name in host:
        assert seen.number(name) >= 0
    for name in (b"MemTotal", b"MemAvailable", b"SwapTotal", b"Mlocked", *HOSTS):
        assert seen.number(name) <= host.number(name)
    total = seen.number(b"MemTotal")
    subtracted = (b"MemFree", b"Buffers", b"Cached", b"SReclaimable")
    assert sum(seen.number(name) or 0 for name in subtracted) <= total
    assert seen.number(b"KReclaimable") == seen.number(b"SReclaimable")
    assert seen.number(b"MemAvailable") <= total
    assert seen.number(b"SwapFree") <= seen.number(b"SwapTotal")
    for name in (b"Active", b"Inactive"):
        parts = [name + part for part in (b"(anon)", b"(file)")]
        assert seen.number(name) == sum(seen.number(part) for part in parts)


def test_every_name_has_a_value():
    assert set(meminfo.NAMES) == {*GOLDEN, b"Mlocked"}
    assert len(meminfo.NAMES) == len(set(meminfo.NAMES))
    assert KIB == 1 << 10  # sizes are shifted in the view
