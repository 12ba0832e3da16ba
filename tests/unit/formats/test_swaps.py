"""/proc/swaps."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.errors import FormatError
from pylxcfs.formats import swaps
from pylxcfs.formats.swaps import HEADER, Area
from tests.unit.views.fakes import captured

CASES = [
    # as mm/swapfile.c prints them
    ([], b""),
    (
        [Area(b"/dev/zram0", b"partition", 4095996 * 1024, 524288 * 1024, 100)],
        b"/dev/zram0                              partition\t4095996\t\t524288\t\t100\n",
    ),
    (
        [
            Area(b"/swap\\040file", b"file", 16777212 * 1024, 10000000 * 1024, -2),
            Area(b"/" + b"x" * 50, b"file", 1024, 0, -3),
        ],
        b"/swap\\040file                           file\t\t16777212\t10000000\t-2\n"
        + (b"/" + b"x" * 50 + b" file\t\t1\t\t0\t\t-3\n"),
    ),
    (
        [Area(b"none", b"virtual", 1048576 * 1024, 0, 0)],
        b"none                                    virtual\t\t1048576\t\t0\t\t0\n",
    ),
]


@pytest.mark.parametrize(("areas", "lines"), CASES)
def test_parse_and_render(areas, lines):
    assert swaps.parse(HEADER + lines) == areas
    assert swaps.render(areas) == HEADER + lines


def test_the_header_of_older_kernels_is_taken():
    assert swaps.parse(b"Filename\t\t\t\tType\t\tSize\tUsed\tPriority\n") == []


@pytest.mark.parametrize(
    "text",
    [
        b"",
        HEADER[:-1],
        b"Name\n",
        HEADER + b"/dev/sda partition 1 2 3",
        HEADER + b"/dev/sda partition 1 2\n",
        HEADER + b"/dev/sda partition x 2 3\n",
        HEADER + b"/dev/sda partition -1 2 3\n",
        HEADER + b"\n",
    ],
)
def test_nonsense_is_a_format_error(text):
    with pytest.raises(FormatError):
        swaps.parse(text)


@pytest.mark.parametrize("host", captured(), ids=lambda path: path.name)
def test_captured_hosts_parse(host):
    text = (host / "proc/swaps").read_bytes()
    assert swaps.render(swaps.parse(text)).partition(b"\n")[2] == text.partition(b"\n")[2]


@given(st.binary(max_size=100), st.booleans())
def test_any_bytes_parse_or_raise_our_error(text, header):
    with suppress(FormatError):
        swaps.parse((HEADER if header else b"") + text)


NAME = st.from_regex(rb"\A/[!-~]{0,60}\Z")


@given(
    st.lists(
        st.builds(
            Area,
            NAME,
            st.sampled_from([b"file", b"partition", b"virtual"]),
            st.integers(0, 2**40).map(lambda kib: kib * 1024),
            st.integers(0, 2**40).map(lambda kib: kib * 1024),
            st.integers(-32768, 32767),
        )
    )
)
def test_round_trip(areas):
    assert swaps.parse(swaps.render(areas)) == areas
