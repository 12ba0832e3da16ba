"""/proc/meminfo: parsing, cached layouts, and replacing values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.errors import FormatError
from pylxcfs.formats import meminfo
from tests.unit.views.fakes import captured

TEXT = (
    b"MemTotal:           2048 kB\n"
    b"MemFree:            1024 kB\n"
    b"Odd one: x\n"
    b"HugePages_Total:       7\n"
)

NUMBERS = [
    (b"MemTotal", 2048 * 1024),
    (b"MemFree", 1024 * 1024),
    (b"HugePages_Total", 7),
    (b"Absent", None),
]

#: Not a text of the kernel.
NONSENSE = [b"", b"MemTotal: 1 kB", b"no colon\n", b"\n", b"MemTotal: 1 kB\n\n"]

TWO = (b"MemTotal", b"MemFree")


@pytest.mark.parametrize(("name", "expected"), NUMBERS)
def test_numbers_are_bytes_where_the_line_has_a_unit(name, expected):
    assert meminfo.parse(TEXT).number(name) == expected


@pytest.mark.parametrize("text", NONSENSE)
def test_nonsense_is_a_format_error(text):
    with pytest.raises(FormatError):
        meminfo.parse(text)
    with pytest.raises(FormatError):
        meminfo.read(text)


@pytest.mark.parametrize("value", [b"x kB", b"-1 kB", b"", b"1 2 kB", b"0x1"])
def test_a_value_that_is_no_number_is_a_format_error_when_asked_for(value):
    with pytest.raises(FormatError):
        meminfo.parse(b"MemTotal: " + value + b"\n").number(b"MemTotal")


@pytest.mark.parametrize("host", captured(), ids=lambda path: path.name)
def test_captured_hosts_round_trip(host):
    text = (host / "proc/meminfo").read_bytes()
    assert meminfo.parse(text).render() == text
    assert meminfo.read(text).render() == text
    assert b"MemTotal" in meminfo.parse(text)


@pytest.mark.parametrize("host", captured(), ids=lambda path: path.name)
def test_the_hosts_own_values_put_in_leave_the_file_as_it_was(host):
    text = (host / "proc/meminfo").read_bytes()
    info = meminfo.parse(text)
    names = tuple(name for name in info if not name.startswith(b"HugePages_"))
    own = {name: (info.number(name) or 0) // 1024 for name in names}
    assert info.filled(names, own) == text


@pytest.mark.parametrize("host", [0, 9, 99_999_999, 268_435_456])
@pytest.mark.parametrize("own", [0, 10, 100_000_000, 123_456_789_012])
def test_numbers_of_any_width_are_put_in(host, own):
    text = b"MemTotal:       %8d kB\nMemFree:        %8d kB\n" % (host, host)
    changed = meminfo.parse(text).filled(TWO, {b"MemTotal": own, b"MemFree": own})
    assert changed == b"MemTotal:       %8d kB\nMemFree:        %8d kB\n" % (own, own)


def test_names_that_the_file_has_not_are_left_out():
    names = (b"Zswap", *TWO)
    kib = dict.fromkeys(names, 1)
    changed = meminfo.parse(TEXT).filled(names, kib)
    assert b"Zswap" not in changed
    assert meminfo.parse(changed).number(b"MemFree") == 1024


def test_a_reading_with_the_same_lines_is_read_anew():
    first = meminfo.read(TEXT)
    second = meminfo.read(TEXT.replace(b"2048 kB", b"123456789 kB"))
    assert first.number(b"MemTotal") == 2048 * 1024
    assert second.number(b"MemTotal") == 123456789 * 1024
    more = meminfo.read(TEXT + b"Newest: 5 kB\n")
    assert more.number(b"Newest") == 5 * 1024
    assert b"Newest" not in second


@given(st.binary(max_size=200) | st.lists(st.binary(max_size=20)).map(b": 1 kB\n".join))
def test_any_bytes_parse_or_raise_our_error(text):
    try:
        info = meminfo.parse(text)
        assert info.render() == text
        for name in info:
            info.number(name)
    except FormatError:
        pass


@given(*[st.lists(st.integers(0, 2**50), min_size=2, max_size=2)] * 2)
def test_filled_lines_have_the_given_values(host, own):
    text = b"".join(b"%-16b%8d kB\n" % (n + b":", v) for n, v in zip(TWO, host, strict=True))
    changed = meminfo.parse(meminfo.parse(text).filled(TWO, dict(zip(TWO, own, strict=True))))
    for name, value in zip(TWO, own, strict=True):
        assert changed.number(name) == value * 1024
