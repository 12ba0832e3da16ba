"""The connection to the kernel: the handshake, the express lane, and pyfuse3 behind it.

                     +--> Lane (express.py) --answers--> /dev/fuse
    /dev/fuse --read-|
                     +--> socket pair --> pyfuse3 --> socket pair --relay--> /dev/fuse

The connection is older than this process: the keeper mounted it and read the kernel's INIT. It
is told again to every server's libfuse through the pair; the first server's answer goes on to
the kernel and is kept, a later one's only compared. Requests that a dead server had taken are
asked for again (Linux 6.9+, commit 760eac73f9f6); older kernels hand out requests per opened
device, so there each server uses a clone and what dies with it fails with ECONNABORTED.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable
from typing import Final

import pyfuse3
import trio

from pylxcfs.errors import SourceError
from pylxcfs.fusefs import express, wire
from pylxcfs.fusefs.filesystem import Filesystem
from pylxcfs.fusefs.guard import Guard
from pylxcfs.fusefs.operations import Operations

_log = logging.getLogger(__name__)

_LENGTH: Final = struct.Struct("=I")

#: The kernel refuses a read buffer smaller than header, struct fuse_write_in and max_write.
_MAX_WRITE: Final = express.BUFFER // 2

#: How many requests may be stuck at once before this server counts as broken.
_MOST_STUCK: Final = 8


class Handshake:
    """The memfd that holds the kernel's INIT request and, once there was one, its answer.

    One behind the other; a FUSE message begins with its own length.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.request = self._read(0)
        self.reply = self._read(len(self.request))
        if len(self.request) < wire.IN_HEADER.size + wire.INIT_IN.size:
            raise SourceError("the kernel's INIT request is missing or cut off")

    @property
    def can_resend(self) -> bool:
        """Whether the kernel says that it hands out requests again."""
        *_, flags2 = wire.INIT_IN.unpack_from(self.request, wire.IN_HEADER.size)
        return bool(flags2 & wire.HAS_RESEND)

    def keep_reply(self, reply: bytes) -> None:
        """Write the answer that the kernel got, for later servers."""
        os.pwrite(self._fd, reply, len(self.request))
        self.reply = reply

    def adjust(self, reply: bytes) -> bytes:
        """Return libfuse's answer with what the express lane needs."""
        fields = list(wire.INIT_REPLY.unpack_from(reply))
        (_, _, _, offered, _) = wire.INIT_IN.unpack_from(self.request, wire.IN_HEADER.size)
        flags = fields[6] | offered & wire.AUTO_INVAL_DATA
        fields[6] = flags & ~(wire.WRITEBACK_CACHE | wire.CACHE_SYMLINKS)
        fields[9] = min(fields[9], _MAX_WRITE)
        return wire.INIT_REPLY.pack(*fields) + reply[wire.INIT_REPLY.size :]

    def _read(self, at: int) -> bytes:
        head = os.pread(self._fd, _LENGTH.size, at)
        if len(head) < _LENGTH.size:
            return b""
        return os.pread(self._fd, _LENGTH.unpack(head)[0], at)


class Session:
    """One server's time on the connection."""

    def __init__(
        self,
        filesystem: Filesystem,
        guard: Guard,
        connection: int,
        init_fd: int,
        request_timeout: float,
    ) -> None:
        self._fs = filesystem
        self._guard = guard
        self._handshake = Handshake(init_fd)
        self._timeout = request_timeout
        self._device = connection
        self._stop: tuple[int, int] | None = None
        if not self._handshake.can_resend:
            self._device = _clone(connection)
            self._stop = os.pipe()
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._theirs = theirs
        self._lane: express.Lane | None = None
        self._stuck: list[express.Lane] = []
        self._over = trio.Event()

    async def run(self, started: Callable[[], None]) -> None:
        """Serve until the connection ends or this is cancelled; `started` is called once."""
        token = trio.lowlevel.current_trio_token()
        first = not self._handshake.reply
        answered = threading.Event()
        pyfuse3.init(Operations(self._fs, self._guard), f"/dev/fd/{self._theirs.fileno()}", set())
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pyfuse3.main)
                self._ours.send(self._handshake.request)
                relay = threading.Thread(
                    target=self._relay, args=(answered,), name="relay", daemon=True
                )
                relay.start()
                await trio.to_thread.run_sync(answered.wait, 30.0, abandon_on_cancel=True)
                if not answered.is_set():
                    raise SourceError("libfuse did not answer the kernel's INIT in 30 s")
                self._start_lane(token)
                if not first and self._handshake.can_resend:
                    self._ask_again()
                nursery.start_soon(self._watch, token)
                started()
                await self._over.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._finish()

    @property
    def healthy(self) -> bool:
        """False when so many requests are stuck that a new server should take over."""
        return len(self._stuck) < _MOST_STUCK

    def _start_lane(self, token: trio.lowlevel.TrioToken) -> None:
        self._lane = express.Lane(
            self._fs,
            self._guard,
            self._device,
            self._ours,
            self._stop[0] if self._stop else None,
            lambda: self._connection_ended(token),
        )
        self._lane.start()

    def _connection_ended(self, token: trio.lowlevel.TrioToken) -> None:
        # The loop may be over already: unmounting is then what ended it.
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(self._over.set)

    def _ask_again(self) -> None:
        try:
            os.write(self._device, wire.NOTIFY_RESEND)
        except OSError as error:
            _log.warning("the kernel does not hand out unanswered requests again: %s", error)

    def _relay(self, answered: threading.Event) -> None:
        """Bring pyfuse3's answers to the kernel; the first one is libfuse's to INIT."""
        while data := self._ours.recv(1 << 20):
            if not answered.is_set():
                self._settle(data)
                answered.set()
                continue
            try:
                os.write(self._device, data)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENODEV):
                    _log.warning("an answer of pyfuse3's was refused: %s", error)

    def _settle(self, reply: bytes) -> None:
        reply = self._handshake.adjust(reply)
        known = self._handshake.reply
        if not known:
            os.write(self._device, reply)
            self._handshake.keep_reply(reply)
        elif known[wire.OUT_HEADER.size :] != reply[wire.OUT_HEADER.size :]:
            _log.warning(
                "this libfuse would negotiate %s, the mount has %s; serving as negotiated",
                reply[wire.OUT_HEADER.size :].hex(),
                known[wire.OUT_HEADER.size :].hex(),
            )

    async def _watch(self, token: trio.lowlevel.TrioToken) -> None:
        """Answer a request that takes longer than the timeout, and put a new thread on."""
        seen = 0
        while True:
            await trio.sleep(self._timeout)
            self._stuck = [lane for lane in self._stuck if lane.is_alive()]
            lane = self._lane
            request = lane.current() if lane is not None else None
            if lane is None or request is None or request[0] != seen:
                seen = request[0] if request is not None else 0
                continue
            _log.error(
                "request %d of node %#x takes longer than %g s; answering with the host's file",
                request[1],
                request[2],
                self._timeout,
            )
            lane.disowned = True
            self._stuck.append(lane)
            self._start_lane(token)
            await self._answer_stuck(request)

    async def _answer_stuck(self, request: express.Request) -> None:
        unique, opcode, node, message = request
        reply: bytes | None = wire.error_reply(unique, errno.EIO)
        with trio.move_on_after(self._timeout):
            reply = await trio.to_thread.run_sync(
                express.fallback, self._fs, opcode, unique, node, message, abandon_on_cancel=True
            )
        try:
            if reply is not None:
                os.write(self._device, reply)
        except OSError:
            _log.info("the stuck request was answered or given up meanwhile")

    def _finish(self) -> None:
        """Leave the connection to the next server; nothing is unmounted here."""
        if self._stop is not None and self._lane is not None:
            os.write(self._stop[1], b"x")
            self._lane.join(self._timeout)
        pyfuse3.close(unmount=False)


def _clone(connection: int) -> int:
    """Open the device again on the same connection: its requests are this process's own."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    fcntl.ioctl(device, wire.DEV_IOC_CLONE, struct.pack("=I", connection))
    return device
