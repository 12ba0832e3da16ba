"""/proc/PID/timens_offsets."""

from __future__ import annotations

import pytest

from pylxcfs.errors import FormatError
from pylxcfs.formats import timens


@pytest.mark.parametrize(
    ("text", "offset_ns"),
    [
        (b"monotonic           0         0\nboottime            0         0\n", 0),
        (b"monotonic           5         0\nboottime         1000         7\n", 1000_000_000_007),
        (b"monotonic           0         0\nboottime        -1000 500000000\n", -999_500_000_000),
        (b"1 0 0\n7 86400 0\n", 86400_000_000_000),
    ],
)
def test_the_offset_of_boottime(text, offset_ns):
    assert timens.boottime_ns(text) == offset_ns


@pytest.mark.parametrize("text", [b"", b"monotonic 1 0\n", b"boottime 1\n", b"boottime 1 x\n"])
def test_nonsense_is_a_format_error(text):
    with pytest.raises(FormatError):
        timens.boottime_ns(text)
