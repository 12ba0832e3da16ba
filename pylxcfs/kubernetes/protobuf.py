"""Protocol buffers, as far as NRI needs them: messages are dataclasses.

    @dataclass
    class Mount(Message):
        destination: str = text(1)
        options: list[str] = texts(4)

`encode` leaves out values that are empty, as proto3 does; `parse` skips fields that the class does
not have, and raises Malformed for anything that is no message. Knows no message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Final, NamedTuple, TypeVar

from pylxcfs.errors import PylxcfsError

_Self = TypeVar("_Self", bound="Message")
_Of = TypeVar("_Of", bound="Message")

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST: Final = 1 << 64


class Malformed(PylxcfsError):
    """Bytes are no message of the protocol."""


def varint(value: int) -> bytes:
    """Return a whole number; a negative one as the 64 bits of its two's complement."""
    value &= _MOST - 1
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise Malformed("a number is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= _MOST:
                break
            return value, position
    raise Malformed("a number has more than 64 bits")


def split(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field. Raise Malformed."""
    position = 0
    while position < len(data):
        tag, position = _read_varint(data, position)
        number, kind = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise Malformed(f"there is no field {number}")
        if kind == _VARINT:
            value, position = _read_varint(data, position)
            yield number, value
            continue
        if kind == _BYTES:
            length, position = _read_varint(data, position)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise Malformed(f"wire type {kind}")
        if position + length > len(data):
            raise Malformed("a field is cut off")
        yield number, data[position : position + length]
        position += length


def _tagged(number: int, value: bytes) -> bytes:
    return varint(number << 3 | _BYTES) + varint(len(value)) + value


class _Kind(NamedTuple):
    """How values of a field are written and read."""

    number: int
    write: Callable[[int, Any], bytes]
    #: Gets what the field holds already, and a value from the wire; returns what it holds then.
    read: Callable[[Any, int | bytes], Any]


@dataclass
class Message:
    """Base of all messages."""

    def encode(self) -> bytes:
        """Return the message as bytes."""
        kinds = ((one.name, one.metadata["kind"]) for one in fields(self))
        return b"".join(kind.write(kind.number, getattr(self, name)) for name, kind in kinds)

    @classmethod
    def parse(cls: type[_Self], data: bytes) -> _Self:
        """Return the message of these bytes. Raise Malformed."""
        found = cls()
        known = {one.metadata["kind"].number: one for one in fields(cls)}
        for number, value in split(data):
            if number in known:
                name, kind = known[number].name, known[number].metadata["kind"]
                setattr(found, name, kind.read(getattr(found, name), value))
        return found


def _int(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise Malformed("a number was expected")
    return value - _MOST if value >= _MOST >> 1 else value


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise Malformed("text or a message was expected")
    return value


def _text(value: int | bytes) -> str:
    return _bytes(value).decode(errors="surrogateescape")


def _raw(value: str) -> bytes:
    return value.encode(errors="surrogateescape")


def _many(number: int, values: Iterable[bytes]) -> bytes:
    return b"".join(_tagged(number, value) for value in values)


def _field(kind: _Kind, empty: Callable[[], Any]) -> Any:  # noqa: ANN401  a field of any type
    return field(default_factory=empty, metadata={"kind": kind})


def number(place: int) -> int:
    """Return a field of type int32, int64, uint32, or of an enum."""

    def write(tag: int, value: int) -> bytes:
        return varint(tag << 3) + varint(value) if value else b""

    found: int = _field(_Kind(place, write, lambda _, value: _int(value)), int)
    return found


def flag(place: int) -> bool:
    """Return a field of type bool."""

    def write(tag: int, value: bool) -> bytes:
        return varint(tag << 3) + b"\1" if value else b""

    found: bool = _field(_Kind(place, write, lambda _, value: bool(_int(value))), bool)
    return found


def text(place: int) -> str:
    """Return a field of type string."""

    def write(tag: int, value: str) -> bytes:
        return _tagged(tag, _raw(value)) if value else b""

    found: str = _field(_Kind(place, write, lambda _, value: _text(value)), str)
    return found


def raw(place: int) -> bytes:
    """Return a field of type bytes."""

    def write(tag: int, value: bytes) -> bytes:
        return _tagged(tag, value) if value else b""

    found: bytes = _field(_Kind(place, write, lambda _, value: _bytes(value)), bytes)
    return found


def texts(place: int) -> list[str]:
    """Return a field of type repeated string."""

    def write(tag: int, values: list[str]) -> bytes:
        return _many(tag, map(_raw, values))

    found: list[str] = _field(
        _Kind(place, write, lambda held, value: [*held, _text(value)]), list[str]
    )
    return found


def table(place: int) -> dict[str, str]:
    """Return a field of type map<string, string>."""

    def write(tag: int, values: dict[str, str]) -> bytes:
        pairs = (_Pair(key, value).encode() for key, value in values.items())
        return _many(tag, pairs)

    def read(held: dict[str, str], value: int | bytes) -> dict[str, str]:
        pair = _Pair.parse(_bytes(value))
        held[pair.key] = pair.value
        return held

    found: dict[str, str] = _field(_Kind(place, write, read), dict[str, str])
    return found


def message(place: int, kind: type[_Of]) -> _Of:
    """Return a field that holds a message; one without values is left out."""

    def write(tag: int, value: _Of) -> bytes:
        data = value.encode()
        return _tagged(tag, data) if data else b""

    found: _Of = _field(_Kind(place, write, lambda _, value: kind.parse(_bytes(value))), kind)
    return found


def messages(place: int, kind: type[_Of]) -> list[_Of]:
    """Return a field of type repeated message."""

    def write(tag: int, values: list[_Of]) -> bytes:
        return _many(tag, (value.encode() for value in values))

    def read(held: list[_Of], value: int | bytes) -> list[_Of]:
        held.append(kind.parse(_bytes(value)))
        return held

    found: list[_Of] = _field(_Kind(place, write, read), list[_Of])
    return found


@dataclass
class _Pair(Message):
    key: str = text(1)
    value: str = text(2)
