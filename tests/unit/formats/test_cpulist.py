"""Lists and masks of CPUs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.errors import FormatError
from pylxcfs.formats import cpulist

CASES = [
    (b"", ()),
    (b"0", (0,)),
    (b"0-1", (0, 1)),
    (b"0-3,5", (0, 1, 2, 3, 5)),
    (b"1,3,5", (1, 3, 5)),
    (b"2-3,10-11", (2, 3, 10, 11)),
    (b"0,2-127", (0, *range(2, 128))),
]


@pytest.mark.parametrize(("text", "numbers"), CASES)
def test_parse_and_render(text, numbers):
    assert cpulist.parse(text + b"\n") == numbers
    assert cpulist.render(numbers) == text


@pytest.mark.parametrize(
    "text",
    [b"x", b"1-", b"-1", b"3-1", b"0-3:1/2", b"1,,2", b"1_0", b"0-9999999999", b"99999", b"1 2"],
)
def test_nonsense_is_a_format_error(text):
    with pytest.raises(FormatError):
        cpulist.parse(text)


def test_parse_orders_and_drops_repeats():
    assert cpulist.parse(b"4,0-2,1-2\n") == (0, 1, 2, 4)


@pytest.mark.parametrize(
    ("numbers", "width", "text"),
    [
        ([0, 1], 2, b"3"),
        ([], 4, b"0"),
        ([0, 1, 2, 3], 64, b"00000000,0000000f"),
        (range(40), 40, b"ff,ffffffff"),
        ([32], 33, b"1,00000000"),
        ([0, 7], 8, b"81"),
        ([0, 99], 4, b"1"),
        ([], 0, b"0"),
    ],
)
def test_mask(numbers, width, text):
    assert cpulist.mask(numbers, width) == text


@given(st.binary(max_size=40) | st.text("0123456789-,", max_size=20).map(str.encode))
def test_any_bytes_parse_or_raise_format_error(text):
    try:
        numbers = cpulist.parse(text)
    except FormatError:
        return
    assert list(numbers) == sorted(set(numbers))


@given(st.sets(st.integers(0, cpulist.MAX_NUMBER), max_size=50))
def test_round_trip(numbers):
    assert set(cpulist.parse(cpulist.render(numbers) + b"\n")) == numbers


@given(st.sets(st.integers(0, 200), max_size=50), st.integers(201, 300))
def test_mask_holds_every_bit(numbers, width):
    bits = int(cpulist.mask(numbers, width).replace(b",", b""), 16)
    assert {bit for bit in range(width) if bits >> bit & 1} == numbers


@pytest.mark.parametrize(
    ("text", "numbers", "width"),
    [
        (b"3\n", (0, 1), 4),
        (b"00000000,0000000f\n", (0, 1, 2, 3), 64),
        (b"ff,00000001\n", (0, *range(32, 40)), 40),
        (b"0\n", (), 4),
    ],
)
def test_parse_mask(text, numbers, width):
    assert cpulist.parse_mask(text) == (numbers, width)
    assert cpulist.mask(numbers, width) + b"\n" == text


@pytest.mark.parametrize("text", [b"", b"x", b"1,1", b"000000001", b"1,,00000001", b"0x1", b"-1"])
def test_a_nonsensical_mask_is_a_format_error(text):
    with pytest.raises(FormatError):
        cpulist.parse_mask(text)


@given(st.binary(max_size=40) | st.text("0123456789abcdef,", max_size=40).map(str.encode))
def test_any_bytes_are_a_mask_or_raise_format_error(text):
    try:
        numbers, width = cpulist.parse_mask(text)
    except FormatError:
        return
    assert cpulist.mask(numbers, width) == text.strip()
