"""Amounts of memory and swap: a table of cases, and invariants."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.errors import FormatError
from pylxcfs.formats import meminfo
from pylxcfs.units import GIB, KIB, MIB
from pylxcfs.views.memory import Amounts, amounts
from pylxcfs.views.model import Options
from tests.unit.views.fakes import memory


def host(total=16 * GIB, free=8 * GIB, available=12 * GIB, swap=4 * GIB, swap_free=3 * GIB):
    text = b"MemTotal: %d kB\nMemFree: %d kB\n" % (total // KIB, free // KIB)
    if available is not None:
        text += b"MemAvailable: %d kB\n" % (available // KIB)
    text += b"SwapTotal: %d kB\nSwapFree: %d kB\n" % (swap // KIB, swap_free // KIB)
    return meminfo.parse(text)


FILES = {b"active_file": 10 * MIB, b"inactive_file": 20 * MIB, b"slab_reclaimable": 5 * MIB}

CASES = [
    # what, memory, (total, free, available)
    ("limit", memory(limit=GIB, usage=100 * MIB), (GIB, 924 * MIB, 924 * MIB)),
    (
        "caches can be taken back",
        memory(limit=GIB, usage=100 * MIB, stat=FILES),
        (GIB, 924 * MIB, 959 * MIB),
    ),
    (
        "more caches than use",
        memory(limit=GIB, usage=MIB, stat=FILES),
        (GIB, 1023 * MIB, GIB),
    ),
    ("usage above a lowered limit", memory(limit=GIB, usage=2 * GIB), (GIB, 0, 0)),
    ("no limit", memory(usage=GIB), (16 * GIB, 15 * GIB, 12 * GIB)),
    ("a limit above the host's", memory(limit=64 * GIB, usage=GIB), (16 * GIB, 15 * GIB, 12 * GIB)),
    ("a limit of 0 was none", memory(limit=0, usage=GIB), (0, 0, 0)),
    ("a limit below 1 kB was none", memory(limit=1000, usage=GIB), (1000, 0, 0)),
    (
        "a limit that the host cannot give",
        memory(limit=15 * GIB, usage=GIB),
        (15 * GIB, 14 * GIB, 12 * GIB),
    ),
]


@pytest.mark.parametrize(("values", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_memory(values, expected):
    assert amounts(host(), values, Options())[:3] == expected


SWAPS = [
    # what, memory, options, (total, free)
    ("no limit", memory(swap_usage=GIB), Options(), (4 * GIB, 3 * GIB)),
    ("limit", memory(swap_limit=GIB, swap_usage=MIB), Options(), (GIB, 1023 * MIB)),
    ("limit above the host's", memory(swap_limit=9 * GIB), Options(), (4 * GIB, 4 * GIB)),
    ("limit of nothing", memory(swap_limit=0), Options(), (0, 0)),
    ("lowered limit", memory(swap_limit=MIB, swap_usage=GIB), Options(), (MIB, 0)),
    ("not accounted", memory(swap_limit=GIB, swap_usage=None), Options(), (0, 0)),
    ("switched off", memory(swap_limit=GIB), Options(swap=False), (0, 0)),
    ("swappiness 0", memory(swap_usage=MIB, swappiness=0), Options(), (MIB, 0)),
    ("swappiness 60", memory(swap_limit=GIB, swappiness=60), Options(), (GIB, GIB)),
]


@pytest.mark.parametrize(
    ("values", "options", "expected"), [c[1:] for c in SWAPS], ids=[c[0] for c in SWAPS]
)
def test_swap(values, options, expected):
    assert amounts(host(), values, options)[3:] == expected


def test_a_host_without_swap_gives_none():
    seen = amounts(host(swap=0, swap_free=0), memory(swap_usage=MIB, swap_limit=GIB), Options())
    assert seen[3:] == (0, 0)


def test_a_full_host_bounds_available_memory_alone():
    full = host(free=MIB, available=50 * MIB, swap_free=MIB)
    seen = amounts(full, memory(limit=GIB), Options())
    assert seen == Amounts(GIB, GIB, 50 * MIB, 4 * GIB, 4 * GIB)


@pytest.mark.parametrize("limit", [None, 8 * GIB])
def test_free_memory_was_cut_to_the_hosts_so_others_page_cache_was_used_memory(limit):
    """Hosts whose memory is mostly page cache: `used` is what the container uses."""
    mostly_cache = host(total=32 * GIB, free=3 * GIB, available=22 * GIB)
    seen = amounts(mostly_cache, memory(limit=limit, usage=6 * MIB), Options())
    assert seen.total - seen.free == 6 * MIB


def test_free_swap_was_cut_to_the_hosts_so_others_swap_was_used_swap():
    seen = amounts(host(swap_free=MIB), memory(swap_limit=GIB, swap_usage=MIB), Options())
    assert seen.swap_total - seen.swap_free == MIB


def test_what_others_under_an_ancestors_limit_use_was_free():
    values = memory(limit=256 * MIB, usage=6 * MIB, left=48 * MIB, stat=FILES)
    seen = amounts(host(), values, Options())
    assert seen[:3] == (256 * MIB, 48 * MIB, 83 * MIB)


def test_an_ancestor_over_its_lowered_limit_leaves_nothing():
    values = memory(limit=256 * MIB, usage=6 * MIB, left=-MIB, swap_limit=GIB, swap_left=-MIB)
    seen = amounts(host(), values, Options())
    assert (seen.free, seen.available, seen.swap_free) == (0, 0, 0)


def test_swap_that_others_under_an_ancestors_limit_use_was_free():
    values = memory(swap_limit=GIB, swap_usage=MIB, swap_left=7 * MIB)
    assert amounts(host(), values, Options())[3:] == (GIB, 7 * MIB)


def test_kernels_without_memavailable():
    seen = amounts(host(available=None), memory(limit=GIB, usage=MIB), Options())
    assert seen[:3] == (GIB, 1023 * MIB, 1023 * MIB)


@pytest.mark.parametrize("text", [b"MemFree: 1 kB\n", b"MemTotal: x kB\n"])
def test_a_host_file_without_totals_is_a_format_error(text):
    with pytest.raises(FormatError):
        amounts(meminfo.parse(text), memory(), Options())


SIZE = st.integers(0, 2**45)


@st.composite
def hosts(draw):
    total = draw(SIZE)
    swap = draw(SIZE)
    return host(
        total,
        draw(st.integers(0, total)),
        draw(st.none() | st.integers(0, total)),
        swap,
        draw(st.integers(0, swap)),
    )


MEMORIES = st.builds(
    memory,
    limit=st.none() | SIZE,
    usage=SIZE,
    swap_limit=st.none() | st.integers(-(2**40), 2**45),
    swap_usage=st.none() | SIZE,
    swappiness=st.none() | st.integers(0, 100),
    left=st.none() | st.integers(-(2**40), 2**45),
    swap_left=st.none() | st.integers(-(2**40), 2**45),
    stat=st.dictionaries(st.sampled_from([*FILES, b"file", b"anon"]), SIZE),
)


@given(hosts(), MEMORIES, st.booleans())
def test_nothing_is_negative_or_more_than_the_host_has(info, values, swap):
    seen = amounts(info, values, Options(swap=swap))
    assert min(seen) >= 0
    assert seen.free <= seen.total <= info.number(b"MemTotal")
    assert seen.available <= seen.total
    assert seen.swap_free <= seen.swap_total <= info.number(b"SwapTotal")
    if info.number(b"MemAvailable") is not None:
        assert seen.available <= info.number(b"MemAvailable")
    if values.limit is not None:
        assert seen.total <= values.limit
