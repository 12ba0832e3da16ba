"""/proc/vmstat."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.errors import FormatError
from pylxcfs.formats import vmstat
from tests.unit.views.fakes import captured

CASES = [
    ({b"nr_free_pages": b"1270030"}, b"nr_free_pages 1270030\n"),
    ({b"pgfault": b"0", b"pgscan_direct": b"7"}, b"pgfault 0\npgscan_direct 7\n"),
]


@pytest.mark.parametrize(("values", "text"), CASES)
def test_parse_and_render(values, text):
    assert vmstat.parse(text) == values
    assert vmstat.render(values) == text


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"a 1",
        b"a\n",
        b"a  1\n",
        b"a 1 2\n",
        b"a x\n",
        b"a -1\n",
        b"a 1\na 1\n",
        b"a 123456789012345678901\n",
    ],
)
def test_nonsense_is_a_format_error(text):
    with pytest.raises(FormatError):
        vmstat.parse(text)


@pytest.mark.parametrize("host", captured(), ids=lambda path: path.name)
def test_captured_hosts_round_trip(host):
    text = (host / "proc/vmstat").read_bytes()
    assert vmstat.render(vmstat.parse(text)) == text


@given(st.binary(max_size=60) | st.lists(st.sampled_from([b"a", b" ", b"1", b"\n"])).map(b"".join))
def test_any_bytes_parse_or_raise_our_error(text):
    try:
        values = vmstat.parse(text)
    except FormatError:
        return
    assert vmstat.render(values) == text
