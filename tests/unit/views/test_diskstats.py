"""/proc/diskstats of a container."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.formats import diskstats as format_diskstats
from pylxcfs.views import diskstats
from pylxcfs.views.model import BlockIO, Options
from tests.unit.views.fakes import FakeContainer, FakeHost

HOST_TEXT = (
    b"   7       0 loop0 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9\n"
    b" 254       0 vda 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9\n"
    b" 254       1 vda1 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9\n"
)
HOST = FakeHost(files={"proc/diskstats": HOST_TEXT})


def test_v2_counts_bytes_and_requests():
    io = BlockIO(
        read_bytes=4096,
        write_bytes=1024,
        discard_bytes=512,
        reads=3,
        writes=2,
        discards=1,
    )
    seen = FakeContainer(block_io_={(254, 0): io})
    assert diskstats.render(HOST, seen, Options()) == (
        b" 254       0 vda 3 0 8 0 2 0 2 0 0 0 0 1 0 1 0 0 0\n"
    )


def test_v1_counts_times_too():
    io = BlockIO(
        read_bytes=512,
        reads=1,
        reads_merged=4,
        writes_merged=5,
        read_ns=7_999_999,
        write_ns=8_000_000,
        busy_ns=9_000_000,
    )
    seen = FakeContainer(block_io_={(254, 0): io})
    assert diskstats.render(HOST, seen, Options()) == (
        b" 254       0 vda 1 4 1 7 0 5 0 8 0 9 15 0 0 0 0 0 0\n"
    )


def test_devices_that_were_not_touched_are_left_out():
    seen = FakeContainer(block_io_={(7, 0): BlockIO(), (254, 0): BlockIO(reads=1)})
    parsed = format_diskstats.parse(diskstats.render(HOST, seen, Options()))
    assert [disk.name for disk in parsed] == [b"vda"]


def test_a_device_that_the_host_does_not_list_has_no_name():
    seen = FakeContainer(block_io_={(252, 3): BlockIO(reads=1), (7, 0): BlockIO(reads=1)})
    parsed = format_diskstats.parse(diskstats.render(HOST, seen, Options()))
    assert [disk.name for disk in parsed] == [b"loop0"]


def test_zeros_for_all_devices_if_none_was_touched():
    for untouched in ({}, {(254, 0): BlockIO()}, {(252, 3): BlockIO(reads=1)}):
        seen = FakeContainer(block_io_=untouched)
        assert diskstats.render(HOST, seen, Options()) == HOST_TEXT.replace(b" 9", b" 0")


def test_the_hosts_file_where_io_is_not_accounted():
    assert diskstats.render(HOST, FakeContainer(), Options()) == HOST_TEXT


COUNT = st.integers(0, 2**64)


@given(
    st.dictionaries(
        st.sampled_from([(7, 0), (254, 0), (254, 1), (9, 9)]),
        st.builds(BlockIO, *[COUNT] * 11),
    )
)
def test_every_line_is_a_host_device_with_all_columns(used):
    text = diskstats.render(HOST, FakeContainer(block_io_=used), Options())
    parsed = format_diskstats.parse(text)
    assert parsed
    assert {disk.device for disk in parsed} <= {(7, 0), (254, 0), (254, 1)}
    assert {len(disk.columns) for disk in parsed} == {17}
