"""Pressure files, and the triggers that programs write to them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.errors import FormatError
from pylxcfs.formats import pressure
from pylxcfs.formats.pressure import Stall, Trigger
from tests.unit.views.fakes import captured

CASES = [
    (
        b"some avg10=2.59 avg60=2.47 avg300=0.95 total=7256631\n"
        b"full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
        {b"some": Stall(2.59, 2.47, 0.95, 7256631), b"full": Stall(0.0, 0.0, 0.0, 0)},
    ),
    # cpu before Linux 5.13
    (
        b"some avg10=100.00 avg60=99.99 avg300=0.01 total=1\n",
        {b"some": Stall(100.0, 99.99, 0.01, 1)},
    ),
    # irq
    (
        b"full avg10=0.00 avg60=0.00 avg300=0.00 total=18446744073709551615\n",
        {b"full": Stall(0.0, 0.0, 0.0, 2**64 - 1)},
    ),
]


@pytest.mark.parametrize(("text", "stalls"), CASES)
def test_parse_and_render(text, stalls):
    assert pressure.parse(text) == stalls
    assert pressure.render(stalls) == text


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"some\n",
        b"most avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
        b"some avg10=0.00 avg60=0.00 avg300=0.00 total=x\n",
        b"some avg10=0.0 avg60=0.00 avg300=0.00 total=0\n",
        b"some avg60=0.00 avg10=0.00 avg300=0.00 total=0\n",
        CASES[1][0] * 2,
    ],
)
def test_nonsense_is_a_format_error(text):
    with pytest.raises(FormatError):
        pressure.parse(text)


@pytest.mark.parametrize(
    "path",
    [path for host in captured() for path in sorted(host.glob("proc/pressure/*"))],
    ids=lambda path: f"{path.parents[2].name}-{path.name}",
)
def test_captured_hosts_round_trip(path):
    text = path.read_bytes()
    assert pressure.render(pressure.parse(text)) == text


@given(st.binary(max_size=60) | st.sampled_from(CASES).map(lambda case: case[0][:-3]))
def test_any_bytes_parse_or_raise_format_error(text):
    for parse in (pressure.parse, pressure.parse_trigger):
        try:
            parse(text)
        except FormatError:
            continue


AVERAGE = st.integers(0, 10000).map(lambda value: value / 100)
STALL = st.builds(Stall, AVERAGE, AVERAGE, AVERAGE, st.integers(0, 2**64 - 1))


@given(st.dictionaries(st.sampled_from([b"some", b"full"]), STALL, min_size=1))
def test_round_trip(stalls):
    text = pressure.render(stalls)
    assert pressure.render(pressure.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "trigger"),
    [
        (b"some 150000 1000000", Trigger(b"some", 150_000, 1_000_000)),
        (b"full 1 10000000", Trigger(b"full", 1, 10_000_000)),
        (b"some 2000000 2000000", Trigger(b"some", 2_000_000, 2_000_000)),
    ],
)
def test_triggers(text, trigger):
    assert pressure.parse_trigger(text) == trigger
    assert pressure.parse_trigger(text + b"\n") == trigger
    assert pressure.parse_trigger(text + b"\0") == trigger
    assert pressure.render_trigger(trigger) == text


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"some",
        b"some 1000000",
        b"most 1 1000000",
        b"some 0 1000000",
        b"some 2 1",
        b"some 1 10000001",
        b"some -1 1000000",
        b"some 1 1000000 more",
    ],
)
def test_triggers_that_no_kernel_takes(text):
    with pytest.raises(FormatError):
        pressure.parse_trigger(text)
