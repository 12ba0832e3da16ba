"""v1's cpuacct files."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.errors import FormatError
from pylxcfs.formats import cpuacct
from pylxcfs.units import NS_PER_TICK


def test_usage_all_is_by_number_of_the_cpu():
    assert cpuacct.parse_usage_all(b"cpu user system\n0 5 6\n2 7 8\n") == {0: (5, 6), 2: (7, 8)}


def test_usage_percpu_has_one_for_each_possible_cpu():
    assert cpuacct.parse_usage_percpu(b"15 93 0 0 \n") == [15, 93, 0, 0]


def test_stat_counts_ticks():
    assert cpuacct.parse_stat(b"user 3\nsystem 1\n") == (3 * NS_PER_TICK, NS_PER_TICK)


@pytest.mark.parametrize(
    "text", [b"", b"0 1 2\n", b"cpu user system\n0 1\n", b"cpu user system\n0 1 x\n"]
)
def test_nonsense_in_usage_all_is_a_format_error(text):
    with pytest.raises(FormatError):
        cpuacct.parse_usage_all(text)


@pytest.mark.parametrize(
    "parse", [cpuacct.parse_usage_all, cpuacct.parse_usage_percpu, cpuacct.parse_stat]
)
@given(text=st.binary() | st.binary().map(lambda tail: b"cpu user system\n" + tail))
def test_any_bytes_parse_or_raise_format_error(parse, text):
    with contextlib.suppress(FormatError):
        parse(text)
