"""proc/swaps of a container agrees with its meminfo."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.formats import meminfo as meminfo_format
from pylxcfs.formats import swaps as format_
from pylxcfs.units import MIB
from pylxcfs.views import meminfo, swaps
from pylxcfs.views.model import Options
from tests.unit.views.fakes import FakeContainer, FakeHost, memory

MEMINFO = b"""\
MemTotal:        1048576 kB
MemFree:          524288 kB
MemAvailable:     786432 kB
SwapTotal:       4194304 kB
SwapFree:        2097152 kB
"""
HOST_SWAPS = format_.HEADER + b"/dev/sda2   partition\t4194304\t\t2097152\t\t-2\n"

CASES = [
    # what, memory, options, lines
    (
        "limit",
        memory(swap_limit=512 * MIB, swap_usage=128 * MIB),
        Options(),
        b"none                                    virtual\t\t524288\t\t131072\t\t0\n",
    ),
    (
        "usage above a lowered limit",
        memory(swap_limit=MIB, swap_usage=128 * MIB),
        Options(),
        b"none                                    virtual\t\t1024\t\t1024\t\t0\n",
    ),
    ("switched off", memory(swap_limit=MIB), Options(swap=False), b""),
    ("not accounted", memory(swap_usage=None), Options(), b""),
    ("none allowed", memory(swap_limit=0), Options(), b""),
]


def host():
    return FakeHost({"proc/meminfo": MEMINFO, "proc/swaps": HOST_SWAPS})


@pytest.mark.parametrize(
    ("values", "options", "lines"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_swaps(values, options, lines):
    text = swaps.render(host(), FakeContainer(memory_=values), options)
    assert text == format_.HEADER + lines


def test_no_memory_controller_is_the_hosts_file():
    assert swaps.render(host(), FakeContainer(), Options()) == HOST_SWAPS


SIZE = st.integers(0, 2**34)


@given(
    st.builds(
        memory,
        swap_limit=st.none() | SIZE,
        swap_usage=st.none() | SIZE,
        swappiness=st.none() | st.integers(0, 100),
    ),
    st.booleans(),
)
def test_swaps_and_meminfo_agree(values, swap):
    container, options = FakeContainer(memory_=values), Options(swap=swap)
    info = meminfo_format.parse(meminfo.render(host(), container, options))
    areas = format_.parse(swaps.render(host(), container, options))
    total, free = info.number(b"SwapTotal"), info.number(b"SwapFree")
    assert sum(area.size for area in areas) == total
    assert sum(area.size - area.used for area in areas) == free
