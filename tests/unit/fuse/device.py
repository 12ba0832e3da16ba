"""The kernel's end of /dev/fuse, as far as one server sees it: whole messages, in order."""

from __future__ import annotations

import contextlib
import socket
from typing import NamedTuple

from pylxcfs.fuse import wire


class Answer(NamedTuple):
    """What the kernel was told: errno (0: success), the number of the request, the rest."""

    errno: int
    unique: int
    data: bytes


class Device:
    """A socket pair: like the device it has whole messages, and may block or not."""

    def __init__(self) -> None:
        self.kernel, self.end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.fd = self.end.fileno()
        self._unique = 0

    def ask(
        self, opcode: int = wire.GETATTR, node: int = 1, pid: int = 1, body: bytes = bytes(16)
    ) -> int:
        """Send a request; return its number."""
        self._unique += 1
        size = wire.IN_HEADER.size + len(body)
        header = wire.IN_HEADER.pack(size, opcode, self._unique, node, 0, 0, pid, 0)
        self.kernel.send(header + body)
        return self._unique

    def told(self) -> Answer:
        """Wait for the next message of the server."""
        data = self.kernel.recv(1 << 20)
        length, error, unique = wire.OUT_HEADER.unpack_from(data)
        assert length == len(data)
        return Answer(-error, unique, data[wire.OUT_HEADER.size :])

    def discard(self) -> None:
        """Forget the requests that nobody has taken."""
        with contextlib.suppress(BlockingIOError):
            while self.end.recv(4096, socket.MSG_DONTWAIT):
                pass

    def close(self) -> None:
        self.kernel.close()
        self.end.close()
