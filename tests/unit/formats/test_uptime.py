"""/proc/uptime."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.errors import FormatError
from pylxcfs.formats import uptime
from pylxcfs.formats.uptime import Uptime
from tests.unit.views.fakes import captured

MS = 1_000_000

CASES = [
    (b"0.00 0.00\n", Uptime(0, 0)),
    (b"350735.47 234388.90\n", Uptime(350735_470 * MS, 234388_900 * MS)),
    (b"7.05 0.10\n", Uptime(7050 * MS, 100 * MS)),
]


@pytest.mark.parametrize(("text", "value"), CASES)
def test_parse_and_render(text, value):
    assert uptime.parse(text) == value
    assert uptime.render(value) == text


def test_hundredths_are_cut_off():
    assert uptime.render(Uptime(1_999_999_999, 9_999_999)) == b"1.99 0.00\n"


@pytest.mark.parametrize(
    "text", [b"", b"1.00\n", b"1 2\n", b"1.0 2.0\n", b".00 1.00\n", b"-1.00 1.00\n", b"1_0.00 1.00"]
)
def test_nonsense_is_a_format_error(text):
    with pytest.raises(FormatError):
        uptime.parse(text)


@pytest.mark.parametrize("host", captured(), ids=lambda host: host.name)
def test_captured_hosts_round_trip(host):
    text = (host / "proc/uptime").read_bytes()
    assert uptime.render(uptime.parse(text)) == text


@given(st.binary(max_size=40) | st.text("0123456789. ", max_size=40).map(str.encode))
def test_any_bytes_parse_or_raise_format_error(text):
    try:
        value = uptime.parse(text)
    except FormatError:
        return
    assert uptime.parse(uptime.render(value)) == value


HUNDREDTHS = st.integers(0, 2**63 // 10_000_000).map(lambda value: value * 10_000_000)


@given(HUNDREDTHS, HUNDREDTHS)
def test_round_trip(up_ns, idle_ns):
    value = Uptime(up_ns, idle_ns)
    assert uptime.parse(uptime.render(value)) == value
