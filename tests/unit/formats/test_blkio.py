"""v1's blkio files."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.errors import FormatError
from pylxcfs.formats import blkio

TEXT = b"8:0 Read 4096\n8:0 Write 1\n8:0 Total 4097\n8:16 Read 5\n8:16 Total 5\nTotal 4102\n"


def test_parse():
    assert blkio.parse(TEXT) == {
        (8, 0): {b"Read": 4096, b"Write": 1, b"Total": 4097},
        (8, 16): {b"Read": 5, b"Total": 5},
    }


def test_the_total_alone_is_no_device():
    assert blkio.parse(b"Total 0\n") == {}


@pytest.mark.parametrize("text", [b"8 Read 1\n", b"8:0 Read x\n", b"8:0\n", b"Sum 3\n"])
def test_nonsense_is_a_format_error(text):
    with pytest.raises(FormatError):
        blkio.parse(text)


@given(st.binary() | st.text("18: Rea\n").map(str.encode))
def test_any_bytes_parse_or_raise_format_error(text):
    with contextlib.suppress(FormatError):
        blkio.parse(text)
