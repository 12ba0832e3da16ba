"""/proc/PID/stat."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.errors import FormatError
from pylxcfs.formats import pidstat
from pylxcfs.formats.pidstat import PidStat

AFTER_NAME = (
    b" D 1 42 42 0 -1 4194560 100 0 0 0 7 5 0 0 20 0 3 0 128769 2400256 200 18446744073709551615"
)


@pytest.mark.parametrize("name", [b"sh", b"", b"a b", b"a) R 1 (b", b"tmux: server\n", b"((("])
def test_fields_are_counted_from_after_the_name(name):
    text = b"42 (" + name + b")" + AFTER_NAME + b"\n"
    assert pidstat.parse(text) == PidStat(
        state=b"D",
        flags=0x400100,
        user_ticks=7,
        system_ticks=5,
        threads=3,
        start_ticks=128769,
    )


def test_our_own():
    stat = pidstat.parse(Path("/proc/self/stat").read_bytes())
    assert stat.threads >= 1
    assert stat.start_ticks >= 0
    assert not stat.flags & pidstat.EXITING


@pytest.mark.parametrize("text", [b"", b"42 (sh) S 1", b"42 (sh) " + b"x " * 40])
def test_nonsense_is_a_format_error(text):
    with pytest.raises(FormatError):
        pidstat.parse(text)


@given(st.binary() | st.binary().map(lambda name: b"1 (" + name + b")" + AFTER_NAME))
def test_any_bytes_parse_or_raise_format_error(text):
    with contextlib.suppress(FormatError):
        pidstat.parse(text)
