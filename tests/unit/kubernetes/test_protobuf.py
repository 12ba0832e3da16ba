"""Messages: bytes as protoc's library has them, round trips, and garbage."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.kubernetes.protobuf import (
    Malformed,
    Message,
    flag,
    message,
    messages,
    number,
    raw,
    table,
    text,
    texts,
    varint,
)


@dataclass
class Inner(Message):
    name: str = text(1)
    size: int = number(16)


@dataclass
class Outer(Message):
    size: int = number(1)
    on: bool = flag(2)
    name: str = text(3)
    content: bytes = raw(4)
    words: list[str] = texts(5)
    pairs: dict[str, str] = table(6)
    one: Inner = message(7, Inner)
    many: list[Inner] = messages(2000, Inner)


WORDS = st.text(max_size=20)
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
INNER = st.builds(Inner, WORDS, INT64)
OUTER = st.builds(
    Outer,
    *(INT64, st.booleans(), WORDS, st.binary(max_size=300), st.lists(WORDS, max_size=4)),
    *(st.dictionaries(WORDS, WORDS, max_size=4), INNER, st.lists(INNER, max_size=4)),
)


@pytest.mark.parametrize(
    ("made", "data"),
    [
        (Outer(), b""),
        (Outer(size=150), b"\x08\x96\x01"),  # the example of protobuf.dev
        (Outer(size=-1), b"\x08" + b"\xff" * 9 + b"\x01"),
        (Outer(name="testing"), b"\x1a\x07testing"),
        (Outer(words=["a", ""]), b"\x2a\x01a\x2a\x00"),
        (Outer(pairs={"k": "v"}), b"\x32\x06\x0a\x01k\x12\x01v"),
        (Outer(one=Inner(size=1)), b"\x3a\x03\x80\x01\x01"),
        (Outer(many=[Inner()]), b"\x82\x7d\x00"),
    ],
)
def test_bytes_are_those_of_the_specification(made: Outer, data: bytes) -> None:
    assert made.encode() == data
    assert Outer.parse(data) == made


@given(OUTER)
def test_a_message_comes_back(made: Outer) -> None:
    assert Outer.parse(made.encode()) == made


@given(OUTER)
def test_fields_that_are_not_known_are_skipped(made: Outer) -> None:
    assert Inner.parse(Outer(name=made.name, on=made.on).encode()) == Inner()
    fixed = varint(30 << 3 | 1) + bytes(8) + varint(31 << 3 | 5) + bytes(4)
    assert Outer.parse(fixed + made.encode() + fixed) == made


@given(st.binary(max_size=200))
def test_garbage_is_a_message_or_malformed(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        Outer.parse(data)


@given(OUTER, st.data())
def test_a_message_that_is_cut_off_or_changed_never_crashes(
    made: Outer, data: st.DataObject
) -> None:
    whole = bytearray(made.encode() or b"\0")
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] = data.draw(st.integers(0, 255))
    for broken in (bytes(whole), bytes(whole[:place])):
        with contextlib.suppress(Malformed):
            Outer.parse(broken)


@pytest.mark.parametrize(
    "data",
    [
        b"\x08",  # no value
        b"\x08" + b"\xff" * 10,  # more than 64 bits
        b"\x1a\x05ab",  # cut off
        b"\x0b",  # a group
        b"\x00\x00",  # field 0
        b"\x0a\x00",  # text where a number was expected
        b"\x18\x01",  # a number where text was expected
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        Outer.parse(data)
