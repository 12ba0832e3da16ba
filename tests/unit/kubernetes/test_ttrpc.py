"""Frames and packets: round trips in pieces, and garbage."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.kubernetes import ttrpc
from pylxcfs.kubernetes.protobuf import Malformed
from pylxcfs.kubernetes.ttrpc import PLUGIN, RUNTIME, Decoder, Packet

PACKETS = st.builds(
    Packet,
    st.sampled_from([PLUGIN, RUNTIME]),
    st.integers(0, (1 << 32) - 1),
    st.sampled_from([ttrpc.REQUEST, ttrpc.RESPONSE, 3]),
    st.binary(max_size=100),
)


def test_the_layout() -> None:
    packet = Packet(RUNTIME, 5, ttrpc.REQUEST, b"ab")
    assert packet.encode() == (
        b"\0\0\0\2" + b"\0\0\0\x0c" + b"\0\0\0\2" + b"\0\0\0\5" + b"\1\0" + b"ab"
    )


@given(st.lists(PACKETS, max_size=8), st.integers(1, 40))
def test_packets_come_back_whatever_the_pieces(packets: list[Packet], size: int) -> None:
    data = b"".join(packet.encode() for packet in packets)
    decoder = Decoder()
    found = []
    for start in range(0, len(data), size):
        found += decoder.feed(data[start : start + size])
    assert found == packets


@given(PACKETS, PACKETS, st.integers(1, 109))
def test_a_message_may_lie_in_several_frames(one: Packet, other: Packet, size: int) -> None:
    """Those of two connections in turn."""
    pieces = []
    for packet in (one, other._replace(connection=3 - one.connection)):
        message = packet.encode()[8:]
        parts = [message[start : start + size] for start in range(0, len(message), size)]
        pieces.append([struct.pack(">II", packet.connection, len(p)) + p for p in parts])
    longest = max(map(len, pieces))
    data = b"".join(b"".join(parts[i : i + 1]) for i in range(longest) for parts in pieces)
    found = Decoder().feed(data)
    assert sorted(found) == sorted([one, other._replace(connection=3 - one.connection)])


def test_other_connections_are_skipped() -> None:
    packet = Packet(PLUGIN, 1, ttrpc.REQUEST, b"x")
    other = packet._replace(connection=7).encode()
    assert Decoder().feed(other + packet.encode() + other) == [packet]


@given(st.binary(max_size=300))
def test_garbage_never_crashes(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        Decoder().feed(data)


@pytest.mark.parametrize("data", [b"\0\0\0\1" + b"\xff" * 4, b"\0\0\0\1\0\0\0\x0a" + b"\xff" * 10])
def test_a_length_beyond_all_reason(data: bytes) -> None:
    with pytest.raises(Malformed):
        Decoder().feed(data)
