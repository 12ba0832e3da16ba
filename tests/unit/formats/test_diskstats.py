"""/proc/diskstats."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.errors import FormatError
from pylxcfs.formats import diskstats
from pylxcfs.formats.diskstats import Disk
from tests.unit.views.fakes import captured

CASES = [
    (b"", []),
    (
        b" 254       0 vda 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17\n",
        [Disk((254, 0), b"vda", tuple(range(1, 18)))],
    ),
    # Linux 4.14 and 4.19; a name with a slash; a major number of four digits
    (
        b"   8       0 sda 1 2 3 4 5 6 7 8 9 10 11\n"
        b" 104       0 cciss/c0d0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15\n"
        b"1259 1048575 dm-1 0 0 0 0 0 0 0 0 0 0 0\n",
        [
            Disk((8, 0), b"sda", tuple(range(1, 12))),
            Disk((104, 0), b"cciss/c0d0", tuple(range(1, 16))),
            Disk((1259, 1048575), b"dm-1", (0,) * 11),
        ],
    ),
]


@pytest.mark.parametrize(("text", "disks"), CASES)
def test_parse_and_render(text, disks):
    assert diskstats.parse(text) == disks
    assert diskstats.render(disks) == text
    assert diskstats.names(text) == {disk.device: disk.name for disk in disks}


@pytest.mark.parametrize("text", [b"8\n", b"8 0 sda\n", b"x 0 sda 1\n", b"8 0 sda 1 x\n"])
def test_nonsense_is_a_format_error(text):
    with pytest.raises(FormatError):
        diskstats.parse(text)


@pytest.mark.parametrize("host", captured(), ids=lambda host: host.name)
def test_captured_hosts_round_trip(host):
    text = (host / "proc/diskstats").read_bytes()
    assert diskstats.render(diskstats.parse(text)) == text


@given(st.binary(max_size=60) | st.text("0123456789 a\n", max_size=60).map(str.encode))
def test_any_bytes_parse_or_raise_format_error(text):
    try:
        disks = diskstats.parse(text)
    except FormatError:
        return
    assert diskstats.parse(diskstats.render(disks)) == disks


NUMBER = st.integers(0, 2**64 - 1)
DISK = st.builds(
    Disk,
    st.tuples(st.integers(0, 4095), st.integers(0, 2**20 - 1)),
    st.from_regex(rb"[a-z][a-z0-9/!-]{0,30}", fullmatch=True),
    st.lists(NUMBER, min_size=1, max_size=20).map(tuple),
)


@given(st.lists(DISK, max_size=5))
def test_round_trip(disks):
    assert diskstats.parse(diskstats.render(disks)) == disks
