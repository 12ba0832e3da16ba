"""ttRPC in the frames of NRI's multiplexer: bytes to messages and back.

    multiplexer   connection u32, length u32                        big endian, then the payload
    ttRPC         length u32, stream u32, type u8, flags u8         then a Request or a Response

One socket carries two connections: on PLUGIN the runtime calls the plugin, on RUNTIME the plugin
calls the runtime. A message may lie in several frames. No I/O, and no method is known here.
(github.com/containerd/nri pkg/net/multiplex, github.com/containerd/ttrpc PROTOCOL.md.)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from pylxcfs.kubernetes.protobuf import Malformed, Message, message, number, raw, text

PLUGIN: Final = 1
RUNTIME: Final = 2
REQUEST: Final = 1
RESPONSE: Final = 2
#: Codes of google.rpc.Code.
UNIMPLEMENTED: Final = 12

_FRAME: Final = struct.Struct(">II")
_HEADER: Final = struct.Struct(">IIBB")
#: ttRPC has a limit of 4 MiB a message, and some versions a larger one.
_MOST: Final = 1 << 24


@dataclass
class Status(Message):
    code: int = number(1)
    message: str = text(2)


@dataclass
class Request(Message):
    service: str = text(1)
    method: str = text(2)
    payload: bytes = raw(3)
    timeout_ns: int = number(4)


@dataclass
class Response(Message):
    status: Status = message(1, Status)
    payload: bytes = raw(2)


class Packet(NamedTuple):
    """One ttRPC message."""

    connection: int
    stream: int
    kind: int
    payload: bytes

    def encode(self) -> bytes:
        """Return it in a frame."""
        header = _HEADER.pack(len(self.payload), self.stream, self.kind, 0)
        size = len(header) + len(self.payload)
        return _FRAME.pack(self.connection, size) + header + self.payload


class Decoder:
    """Puts messages together from what arrives."""

    def __init__(self) -> None:
        self._frames = bytearray()
        self._streams: dict[int, bytearray] = {PLUGIN: bytearray(), RUNTIME: bytearray()}

    def feed(self, data: bytes) -> list[Packet]:
        """Return the messages that are complete now. Raise Malformed: the rest is lost then."""
        self._frames += data
        found = []
        while len(self._frames) >= _FRAME.size:
            connection, length = _FRAME.unpack_from(self._frames)
            if length > _MOST:
                raise Malformed(f"a frame of {length} bytes")
            end = _FRAME.size + length
            if len(self._frames) < end:
                break
            payload = self._frames[_FRAME.size : end]
            del self._frames[:end]
            if connection in self._streams:  # a runtime may have others, for other services
                self._streams[connection] += payload
                found += self._packets(connection)
        return found

    def _packets(self, connection: int) -> list[Packet]:
        stream = self._streams[connection]
        found = []
        while len(stream) >= _HEADER.size:
            length, number_, kind, _ = _HEADER.unpack_from(stream)
            if length > _MOST:
                raise Malformed(f"a message of {length} bytes")
            end = _HEADER.size + length
            if len(stream) < end:
                break
            found.append(Packet(connection, number_, kind, bytes(stream[_HEADER.size : end])))
            del stream[:end]
        return found
