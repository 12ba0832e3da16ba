"""The kernel's connection, as one server uses it: the handshake, the lane, its watchdog.

                     +--> Lane (express.py) --answers--> /dev/fuse
    /dev/fuse --read-|
                     +--> socket pair --> pyfuse3 --> socket pair --relay--> /dev/fuse

The connection is older than this process: the keeper mounted it and read the kernel's INIT. It
is told again to every server's libfuse through the pair; the first server's answer goes on to
the kernel and is kept, a later one's only compared. Requests that a dead server had taken are
asked for again (Linux 6.9+, commit 760eac73f9f6); older kernels hand out requests per opened
device, so there each server uses a clone and what dies with it fails with ECONNABORTED.

Nothing here imports pyfuse3 or trio, which take longer to load than everything else: where the
handshake is done already, readers are served before those are there (session.py).
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
import time
from collections.abc import Callable
from typing import Final

from pylxcfs.errors import SourceError
from pylxcfs.fusefs import express, wire
from pylxcfs.fusefs.filesystem import Filesystem
from pylxcfs.fusefs.guard import Guard
from pylxcfs.fusefs.turns import Turns

_log = logging.getLogger(__name__)

_LENGTH: Final = struct.Struct("=I")

#: The kernel refuses a read buffer smaller than header, struct fuse_write_in and max_write.
_MAX_WRITE: Final = express.BUFFER // 2

#: RELEASEs that the kernel hands out at once, beside what somebody waits for. By default they are
#: 12, so of a container whose many threads open and close files all the time each round leaves
#: some behind, in memory that is charged to it: until it is killed for that.
_MOST_BACKGROUND: Final = 0xFFFF

#: How long a server that ends waits for what it has begun.
_LEAVE_S: Final = 1.0

#: Bytes of requests that may wait for pyfuse3 (a short one counts for about 1 KiB): the default
#: holds some 200, and a crowd that lists directories would be told EAGAIN.
_WAITING: Final = 16 << 20
_SO_SNDBUFFORCE: Final = 32

#: What gives way to readers looks again after so long, and goes on after so many looks.
_MOMENT_S: Final = 0.0001
_MOST_MOMENTS: Final = 10

#: How many requests may be stuck at once before this server counts as broken.
_MOST_STUCK: Final = 8


class Handshake:
    """The memfd that holds the kernel's INIT request and, once there was one, its answer.

    One behind the other; a FUSE message begins with its own length. survivors.py and register.py
    write further behind.
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
        fields[7:9] = _MOST_BACKGROUND, _MOST_BACKGROUND
        fields[9] = min(fields[9], _MAX_WRITE)
        return wire.INIT_REPLY.pack(*fields) + reply[wire.INIT_REPLY.size :]

    def _read(self, at: int) -> bytes:
        head = os.pread(self._fd, _LENGTH.size, at)
        if len(head) < _LENGTH.size:
            return b""
        return os.pread(self._fd, _LENGTH.unpack(head)[0], at)


class Connection:
    """One server's use of the connection. `ended` is called when it was unmounted or aborted."""

    def __init__(
        self,
        filesystem: Filesystem,
        guard: Guard,
        device: int,
        init_fd: int,
        request_timeout: float,
    ) -> None:
        self._fs = filesystem
        self._guard = guard
        self._handshake = Handshake(init_fd)
        self._memory = init_fd
        self._timeout = request_timeout
        self._opened = self._device = device
        filesystem.forget_attributes = self._forget_attributes
        self._stop: tuple[int, int] | None = None
        if not self._handshake.can_resend:
            self._device = _clone(device)
            self._stop = os.pipe()
        self._turns = Turns(device, self._namespace) if self._handshake.can_resend else None
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._ours, self.theirs):
            with contextlib.suppress(OSError):  # without CAP_NET_ADMIN the default has to do
                end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _WAITING)
        self._lane: express.Lane | None = None
        self._watchdog: threading.Thread | None = None
        self._stuck: list[express.Lane] = []
        #: Answers of pyfuse3's that the kernel has got.
        self._brought = 0
        #: Set once libfuse has answered INIT.
        self.settled = threading.Event()
        #: Set when there will be no more requests.
        self.over = threading.Event()
        self.ended: Callable[[], None] = self.over.set

    def begin(self) -> None:
        """Tell libfuse's end of the pair INIT; serve at once where the kernel has its answer."""
        self._guard.attempt("recover", lambda: self._fs.recover(self._memory))
        self._ours.send(self._handshake.request)
        threading.Thread(target=self._relay, name="relay", daemon=True).start()
        if self._handshake.reply:
            if self._handshake.can_resend:
                self._ask_again()  # first, or what is taken meanwhile would come twice
            self._serve()

    @property
    def healthy(self) -> bool:
        """False when a new server should take over."""
        lane, watchdog = self._lane, self._watchdog
        return (
            lane is not None
            and lane.is_alive()
            and (watchdog is None or watchdog.is_alive() or self.over.is_set())
            and len(self._stuck) < _MOST_STUCK
        )

    def give_way(self) -> None:
        """Wait while readers are served, for what nobody waits for; not for long.

        Two threads of one interpreter take turns, and each turn is a wait for the reader.
        """
        lane = self._lane
        if lane is None or lane is threading.current_thread():
            return
        for _ in range(_MOST_MOMENTS):
            if not lane.serving:
                break
            time.sleep(_MOMENT_S)

    def close(self) -> None:
        """Take no more requests, and wait for pyfuse3's answers to those it has got.

        The connection is left to the next server; nothing is unmounted here. pyfuse3 has to go on
        until this returns.
        """
        self.over.set()
        lane = self._lane
        if lane is None:
            return
        lane.leaving = True
        if self._stop is not None:
            os.write(self._stop[1], b"x")
            lane.join(_LEAVE_S)
        deadline = time.monotonic() + _LEAVE_S
        while lane.passed > self._brought and time.monotonic() < deadline:
            time.sleep(0.001)

    def _serve(self) -> None:
        self._start_lane()
        if self._timeout:
            self._watchdog = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._watchdog.start()

    def _start_lane(self) -> None:
        lane = express.Lane(
            self._fs,
            self._guard,
            self._device,
            self._ours,
            self._stop[0] if self._stop else None,
            lambda: self.ended(),
            self._turns,
        )
        lane.start()
        self._lane = lane

    def _namespace(self, pid: int) -> int:
        return self._guard.call("turns", self._fs.callers.namespace, lambda pid: 0, pid)

    def _ask_again(self) -> None:
        try:
            os.write(self._device, wire.NOTIFY_RESEND)
        except OSError as error:
            _log.warning("the kernel does not hand out unanswered requests again: %s", error)

    def _forget_attributes(self, node: int) -> None:
        # Waits for nothing, unlike forgetting pages, which may wait for an answer of ours.
        with contextlib.suppress(OSError):  # the kernel may not know the node
            os.write(self._device, wire.forget_attributes(node))

    def _relay(self) -> None:
        """Bring pyfuse3's answers to the kernel; the first one is libfuse's to INIT."""
        self._settle(self._ours.recv(1 << 20))
        while data := self._ours.recv(1 << 20):
            self._brought += 1
            try:
                os.write(self._device, data)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENODEV):
                    _log.warning("an answer of pyfuse3's was refused: %s", error)

    def _settle(self, reply: bytes) -> None:
        reply = self._handshake.adjust(reply)
        known = self._handshake.reply
        if not known:
            # Only through the opened device that INIT was read from, never through a clone.
            os.write(self._opened, reply)
            self._handshake.keep_reply(reply)
            self._serve()
        elif known[wire.OUT_HEADER.size :] != reply[wire.OUT_HEADER.size :]:
            _log.warning(
                "this libfuse would negotiate %s, the mount has %s; serving as negotiated",
                reply[wire.OUT_HEADER.size :].hex(),
                known[wire.OUT_HEADER.size :].hex(),
            )
        self.settled.set()

    def _watch(self) -> None:
        """Answer a request that takes longer than the timeout, and put a new thread on."""
        seen = 0
        while not self.over.wait(self._timeout):
            self._stuck = [lane for lane in self._stuck if lane.is_alive()]
            lane = self._lane
            request = lane.current() if lane is not None else None
            if lane is None or request is None or request[0] != seen:
                seen = request[0] if request is not None else 0
                continue
            if not lane.disown(seen):
                continue
            self._stuck.append(lane)
            self._start_lane()
            _log.error(
                "request %d of node %#x takes longer than %g s; answering with the host's file",
                request[1],
                request[2],
                self._timeout,
            )
            self._answer_stuck(request)

    def _answer_stuck(self, request: express.Request) -> None:
        unique, opcode, node, message = request
        replies: list[bytes | None] = [wire.error_reply(unique, errno.EIO)]

        def read_the_hosts() -> None:
            replies.append(express.fallback(self._fs, opcode, unique, node, message))

        # The host's file may hang as well.
        reader = threading.Thread(target=read_the_hosts, name="fallback", daemon=True)
        reader.start()
        reader.join(self._timeout)
        reply = replies[-1]
        try:
            if reply is not None:
                os.write(self._device, reply)
        except OSError:
            _log.info("the stuck request was answered or given up meanwhile")


def _clone(connection: int) -> int:
    """Open the device again on the same connection: its requests are this process's own."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    fcntl.ioctl(device, wire.DEV_IOC_CLONE, struct.pack("=I", connection))
    return device
