"""devices.list of v1."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.errors import FormatError
from pylxcfs.formats.deviceslist import Rule, parse


def test_rules_are_in_order() -> None:
    text = b"c 1:3 rwm\nc 136:* rwm\nb 7:0 r\nc *:* m\n"
    assert parse(text) == (
        Rule(False, 1, 3, "rwm"),
        Rule(False, 136, None, "rwm"),
        Rule(True, 7, 0, "r"),
        Rule(False, None, None, "m"),
    )


def test_everything_and_nothing() -> None:
    assert parse(b"a *:* rwm\n") is None
    assert parse(b"") == ()


@pytest.mark.parametrize("line", [b"c 1:3", b"x 1:3 r", b"c 1 r", b"c 1:x r", b"c 1:3 z", b"\xff"])
def test_nonsense_is_an_error(line: bytes) -> None:
    with pytest.raises(FormatError):
        parse(line + b"\n")


@given(st.binary(max_size=64))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        parse(data)
