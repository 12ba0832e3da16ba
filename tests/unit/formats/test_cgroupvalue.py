"""Cgroup files of one value."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.errors import FormatError
from pylxcfs.formats import cgroupvalue


@pytest.mark.parametrize(
    "text",
    [
        b"max\n",
        b"-1\n",
        b"9223372036854771712\n",  # pages of 4 KiB
        b"9223372036854710272\n",  # pages of 64 KiB
        b"9223372036854775807\n",
    ],
)
def test_no_limit_is_none(text):
    assert cgroupvalue.limit(text) is None


def test_limits_are_bytes():
    assert cgroupvalue.limit(b"536870912\n") == 512 << 20
    assert cgroupvalue.limit(b"0\n") == 0


def test_cpu_max():
    assert cgroupvalue.cpu_max(b"max 100000\n") is None
    assert cgroupvalue.cpu_max(b"150000 100000\n") == 1.5


def test_cfs():
    assert cgroupvalue.cfs(b"-1\n", b"100000\n") is None
    assert cgroupvalue.cfs(b"50000\n", b"100000\n") == 0.5


@pytest.mark.parametrize("text", [b"", b"x\n", b"100000\n", b"1 0\n", b"-5 100000\n", b"max1 1\n"])
def test_nonsense_in_cpu_max_is_a_format_error(text):
    with pytest.raises(FormatError):
        cgroupvalue.cpu_max(text)


@given(st.binary() | st.text("max-01 \n").map(str.encode), st.binary())
def test_any_bytes_parse_or_raise_format_error(text, period):
    for parse in (
        cgroupvalue.limit,
        cgroupvalue.number,
        cgroupvalue.cpu_max,
        lambda quota: cgroupvalue.cfs(quota, period),
    ):
        with contextlib.suppress(FormatError):
            parse(text)
