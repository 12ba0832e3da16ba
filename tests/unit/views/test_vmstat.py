"""proc/vmstat of a container."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.errors import FormatError
from pylxcfs.formats import vmstat as format_
from pylxcfs.units import MIB
from pylxcfs.views import vmstat
from pylxcfs.views.model import BlockIO, Options
from tests.unit.views.fakes import FakeContainer, FakeHost, captured, memory

PAGES = MIB // vmstat.PAGE

NAMES = [
    *("nr_free_pages", "nr_zone_inactive_anon", "nr_zone_write_pending", "nr_mlock"),
    *("nr_inactive_anon", "nr_active_anon", "nr_inactive_file", "nr_active_file"),
    *("nr_slab_reclaimable", "nr_anon_pages", "nr_mapped", "nr_file_pages", "nr_dirty"),
    *("nr_shmem", "nr_shmem_hugepages", "nr_anon_transparent_hugepages", "nr_kernel_stack"),
    *("pgpgin", "pgpgout", "pswpin", "pswpout", "pgalloc_normal", "pgfault", "pgmajfault"),
    *("pgscan_kswapd", "workingset_refault_file", "tomorrows_counter"),
]
HOST = "".join(f"{name} 99999999\n" for name in NAMES).encode()
MEMINFO = b"MemTotal: 8388608 kB\nMemFree: 4194304 kB\nMemAvailable: 4194304 kB\n"

STAT = {
    b"anon": 3 * MIB,
    b"file": 40 * MIB,
    b"inactive_anon": 5 * MIB,
    b"active_file": 6 * MIB,
    b"unevictable": 7 * MIB,
    b"file_mapped": 8 * MIB,
    b"file_dirty": 15 * MIB,
    b"file_writeback": 1 * MIB,
    b"kernel_stack": 9 * MIB,
    b"anon_thp": 10 * MIB,
    b"pgfault": 11,
    b"pgscan_kswapd": 12,
    b"workingset_refault_file": 13,
    b"pswpin": 14,
}

GOLDEN = {
    b"nr_free_pages": (512 - 64) * PAGES,
    b"nr_zone_inactive_anon": 5 * PAGES,
    b"nr_zone_write_pending": 16 * PAGES,
    b"nr_dirty": 15 * PAGES,
    b"nr_mlock": 7 * PAGES,
    b"nr_inactive_anon": 5 * PAGES,
    b"nr_active_file": 6 * PAGES,
    b"nr_anon_pages": 3 * PAGES,
    b"nr_mapped": 8 * PAGES,
    b"nr_file_pages": 40 * PAGES,
    b"nr_anon_transparent_hugepages": 5,
    b"nr_kernel_stack": 9 * 1024,
    b"pgfault": 11,
    b"pgscan_kswapd": 12,
    b"workingset_refault_file": 13,
    b"pswpin": 14,
    b"pgpgin": 3 * 1024,
    b"pgpgout": 5 * 1024,
}

BLOCK_IO = {
    (8, 0): BlockIO(read_bytes=MIB, write_bytes=5 * MIB),
    (8, 16): BlockIO(read_bytes=2 * MIB + 1),
}
CONTAINER = FakeContainer(
    memory_=memory(limit=512 * MIB, usage=64 * MIB, stat=STAT), block_io_=BLOCK_IO
)


def host(text=HOST, huge_page=b"2097152\n"):
    files = {"proc/vmstat": text, "proc/meminfo": MEMINFO}
    if huge_page is not None:
        files[vmstat.HUGE_PAGE] = huge_page
    return FakeHost(files)


def numbers(text):
    return {name: int(value) for name, value in format_.parse(text).items()}


def test_lines_that_the_cgroup_counts_are_the_containers():
    seen = numbers(vmstat.render(host(), CONTAINER, Options()))
    assert {name: seen[name] for name in GOLDEN} == GOLDEN
    assert list(seen) == [name.encode() for name in NAMES]
    assert {seen[name] for name in seen if name not in GOLDEN} == {99999999}


def test_free_pages_were_cut_to_the_hosts():
    text = b"nr_free_pages 1\npgfault 99\n"
    seen = numbers(vmstat.render(host(text), CONTAINER, Options()))
    assert seen[b"nr_free_pages"] == (512 - 64) * PAGES


def test_without_controllers_it_is_the_hosts_file():
    assert vmstat.render(host(), FakeContainer(), Options()) == HOST


def test_without_block_io_the_traffic_is_the_hosts():
    container = FakeContainer(memory_=memory(stat={b"pgfault": 5, b"pgmajfault": 6}))
    seen = numbers(vmstat.render(host(), container, Options()))
    assert seen[b"pgpgin"] == 99999999
    assert (seen[b"pgfault"], seen[b"pgmajfault"]) == (5, 6)


def test_without_a_memory_controller_only_the_traffic_is_the_containers():
    seen = numbers(vmstat.render(host(), FakeContainer(block_io_=BLOCK_IO), Options()))
    assert [name for name in seen if seen[name] != 99999999] == [b"pgpgin", b"pgpgout"]


def test_without_transparent_huge_pages_their_lines_are_the_hosts():
    seen = numbers(vmstat.render(host(huge_page=None), CONTAINER, Options()))
    assert seen[b"nr_anon_transparent_hugepages"] == 99999999


@pytest.mark.parametrize("size", [b"", b"0\n", b"x\n"])
def test_a_huge_page_of_no_size_is_a_format_error(size):
    with pytest.raises(FormatError):
        vmstat.render(host(huge_page=size), CONTAINER, Options())


@pytest.mark.parametrize("directory", captured(), ids=lambda path: path.name)
def test_on_captured_hosts(directory):
    machine = FakeHost(directory=directory)
    theirs = numbers(machine.read("proc/vmstat"))
    seen = numbers(vmstat.render(machine, CONTAINER, Options()))
    assert list(seen) == list(theirs)
    assert all(seen[name] <= theirs[name] for name in theirs)


KEYS = [*STAT, b"slab_reclaimable", b"shmem_thp", b"pgpgin", b"nr_dirty"]


@given(
    st.dictionaries(st.sampled_from(KEYS), st.integers(0, 2**63)),
    st.dictionaries(
        st.just((8, 0)), st.builds(BlockIO, st.integers(0, 2**63), st.integers(0, 2**63))
    ),
)
def test_no_line_is_more_than_the_hosts(stat, block_io):
    container = FakeContainer(memory_=memory(stat=stat), block_io_=block_io)
    seen = numbers(vmstat.render(host(), container, Options()))
    assert list(seen) == [name.encode() for name in NAMES]
    assert all(0 <= value <= 99999999 for value in seen.values())
