"""v2's cpu.stat."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.errors import FormatError
from pylxcfs.formats import cpustat
from pylxcfs.formats.cpustat import CpuStat


def test_parse_of_linux_6_12_and_newer():
    text = b"usage_usec 500\nuser_usec 300\nsystem_usec 200\nnice_usec 10\nnr_periods 3\n"
    assert cpustat.parse(text) == CpuStat(user_ns=300_000, system_ns=200_000, nice_ns=10_000)


def test_older_kernels_do_not_tell_nice():
    assert cpustat.parse(b"usage_usec 5\nuser_usec 3\nsystem_usec 2\n") == CpuStat(3000, 2000, 0)


@pytest.mark.parametrize("text", [b"", b"user_usec 1\n", b"user_usec x\nsystem_usec 1\n"])
def test_nonsense_is_a_format_error(text):
    with pytest.raises(FormatError):
        cpustat.parse(text)


@given(st.binary())
def test_any_bytes_parse_or_raise_format_error(text):
    with contextlib.suppress(FormatError):
        cpustat.parse(b"user_usec " + text)
