"""/proc/loadavg."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.errors import FormatError
from pylxcfs.formats import loadavg
from pylxcfs.formats.loadavg import LoadAvg
from tests.unit.views.fakes import captured

CASES = [
    (b"0.00 0.00 0.00 1/1 1\n", LoadAvg((0.0, 0.0, 0.0), 1, 1, 1)),
    (b"0.36 0.42 0.43 2/1063 21817\n", LoadAvg((0.36, 0.42, 0.43), 2, 1063, 21817)),
    (b"128.07 64.90 1.00 0/20 4194303\n", LoadAvg((128.07, 64.9, 1.0), 0, 20, 4194303)),
]


@pytest.mark.parametrize(("text", "value"), CASES)
def test_parse_and_render(text, value):
    assert loadavg.parse(text) == value
    assert loadavg.render(value) == text


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"0.00 0.00 0.00 1/1\n",
        b"0.00 0.00 0.00 1 1\n",
        b"0.00 0.00 0.0 1/1 1\n",
        b"nan 0.00 0.00 1/1 1\n",
        b"0.00 0.00 0.00 1/x 1\n",
        b"0.00 0.00 0.00 1/1 -1\n",
        b"1" * 400 + b".00 0.00 0.00 1/1 1\n",
    ],
)
def test_nonsense_is_a_format_error(text):
    with pytest.raises(FormatError):
        loadavg.parse(text)


@pytest.mark.parametrize("host", captured(), ids=lambda host: host.name)
def test_captured_hosts_round_trip(host):
    text = (host / "proc/loadavg").read_bytes()
    assert loadavg.render(loadavg.parse(text)) == text


@given(st.binary(max_size=40) | st.text("0123456789./ ", max_size=60).map(str.encode))
def test_any_bytes_parse_or_raise_format_error(text):
    try:
        loadavg.parse(text)
    except FormatError:
        return


AVERAGE = st.integers(0, 10_000_000).map(lambda value: value / 100)
COUNT = st.integers(0, 2**32)


@given(st.tuples(AVERAGE, AVERAGE, AVERAGE), COUNT, COUNT, COUNT)
def test_round_trip(averages, running, total, last_pid):
    text = loadavg.render(LoadAvg(averages, running, total, last_pid))
    parsed = loadavg.parse(text)
    assert parsed.averages == pytest.approx(averages)
    assert parsed[1:] == (running, total, last_pid)
    assert loadavg.render(parsed) == text
