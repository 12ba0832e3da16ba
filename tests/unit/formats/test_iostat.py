"""v2's io.stat."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.errors import FormatError
from pylxcfs.formats import iostat

COUNTERS = {b"rbytes": 1, b"wbytes": 2, b"rios": 3, b"wios": 4, b"dbytes": 5, b"dios": 6}
LINE = b"8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6"


def test_parse():
    assert iostat.parse(LINE + b"\n259:0 rbytes=7\n") == {
        (8, 16): COUNTERS,
        (259, 0): {b"rbytes": 7},
    }


@pytest.mark.parametrize("tail", [b" cost.usage=9 cost.vrate=100.00", b" use_delay=1 depth=max"])
def test_what_controllers_add_is_left_out(tail):
    assert iostat.parse(LINE + tail + b"\n") == {(8, 16): COUNTERS}


@pytest.mark.parametrize("start", [b"7:7 7:6 7:5 ", b"7:7 \n7:6\n"])
def test_devices_without_counters_are_left_out(start):
    assert iostat.parse(start + LINE + b"\n") == {(8, 16): COUNTERS}


def test_an_empty_file_is_no_device():
    assert iostat.parse(b"") == {}


@pytest.mark.parametrize("text", [b"rbytes=1\n", b"8:x rbytes=1\n", b"8:0 rbytes=x\n", b"what\n"])
def test_nonsense_is_a_format_error(text):
    with pytest.raises(FormatError):
        iostat.parse(text)


@given(st.binary() | st.text("18:= r.\n").map(str.encode))
def test_any_bytes_parse_or_raise_format_error(text):
    with contextlib.suppress(FormatError):
        iostat.parse(text)
