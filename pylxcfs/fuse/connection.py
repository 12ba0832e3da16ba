"""A mounted connection as one server uses it: threads that answer its requests one at a time.

The connection is older than this process and outlives it: the keeper mounted it and has answered
INIT. Requests that a dead server had taken are asked for again (Linux 6.9+). Older kernels hand
out requests per opened device, so there each server opens a clone, and what dies with it fails
with ECONNABORTED.

How a request is answered is the table of the mount (`Requests`). A handler that does not come back
(a file of the kernel that blocks) is answered by the watchdog with a fallback, and the loop is
replaced. Knows messages; does not know files, processes or containers.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import select
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from pylxcfs.errors import Refused
from pylxcfs.fuse import wire
from pylxcfs.fuse.queue import FairQueue
from pylxcfs.guard import Guard

_log = logging.getLogger(__name__)

#: How long a server that ends waits for the request in service.
_LEAVE_S: Final = 1.0

#: How many requests may be stuck at once before this server counts as broken.
_MOST_STUCK: Final = 8

#: What gives way to readers looks again after so long, and goes on after so many looks.
_MOMENT_S: Final = 0.0001
_MOST_MOMENTS: Final = 10

#: node id, pid of the caller (0: not visible here), body -> the data of the answer; None: as if it
#: had no handler.
Handler = Callable[[int, int, bytes], bytes | None]

#: A request in service: opcode, unique, node id, pid, body.
Request = tuple[int, int, int, int, bytes]

#: Errors of read(2) on /dev/fuse that end the connection: unmounted, aborted.
ENDED: Final = (errno.ENODEV, errno.ECONNABORTED)


def is_disowned() -> bool:
    """Return whether the watchdog has answered in place of this thread."""
    return bool(getattr(threading.current_thread(), "disowned", False))


class Requests(Protocol):
    """What the requests of one mount mean."""

    @property
    def handlers(self) -> Mapping[int, Handler]:
        """By opcode. A handler may raise Refused, and so may `other`."""

    def other(self, request: Request) -> bytes | None:
        """Answer a request that has no handler; None: pyfuse3 answers it."""

    def fallback(self, request: Request) -> bytes:
        """Answer a request whose handler failed or did not come back in time; else it is EIO."""

    def key(self, opcode: int, node: int, pid: int, word: int) -> int:
        """Return the container that a request belongs to, for the fair queue."""


@dataclass(eq=False)
class Connection:
    """One mount of one server."""

    name: str
    device: int
    requests: Requests
    guard: Guard
    #: For how long a request may take; 0: for ever.
    timeout_s: float
    #: Called when the connection was unmounted or aborted.
    on_end: Callable[[], object]
    can_resend: bool

    def __post_init__(self) -> None:
        self.stop = os.eventfd(0, os.EFD_CLOEXEC)
        self.queue = FairQueue(self.device, self.requests.key) if self.can_resend else None
        self._loop = Loop(self)
        self._watchdog = threading.Thread(
            target=self._watch, name=f"watchdog-{self.name}", daemon=True
        )
        self._stuck: list[Loop] = []
        self._over = threading.Event()
        #: Requests by opcode, and those that took longer than the timeout.
        self.counts = [0] * wire.OPCODES
        self.timeouts = 0

    def serve(self) -> None:
        """Start to answer, with the requests that a dead server left."""
        if self.queue is not None:
            try:
                os.write(self.device, wire.NOTIFY_RESEND)
            except OSError as error:
                _log.warning("the kernel does not resend unanswered requests: %s", error)
        self._loop.start()
        if self.timeout_s:
            self._watchdog.start()

    @property
    def healthy(self) -> bool:
        """False when another server should take over."""
        return (
            self._loop.is_alive()
            and (self._watchdog.is_alive() or not self.timeout_s)
            and len(self._stuck) < _MOST_STUCK
        )

    def give_way(self) -> None:
        """Wait while a request is in service, but not for long.

        Two threads of one interpreter take turns, and each turn makes a reader wait.
        """
        loop = self._loop
        for _ in range(_MOST_MOMENTS):
            if loop.serving is None:
                break
            time.sleep(_MOMENT_S)

    def close(self) -> None:
        """Take no more requests, and finish the one in service. The mount stays."""
        self._over.set()
        loop = self._loop
        loop.leaving = True
        os.eventfd_write(self.stop, 1)
        deadline = time.monotonic() + _LEAVE_S
        if self.queue is None:
            loop.join(_LEAVE_S)  # what a clone has taken is lost without an answer
        while loop.serving is not None and time.monotonic() < deadline:
            time.sleep(_MOMENT_S)

    def _watch(self) -> None:
        """Answer a request that takes longer than the timeout, and start another thread."""
        seen: Request | None = None
        while not self._over.wait(self.timeout_s):
            self._stuck = [loop for loop in self._stuck if loop.is_alive()]
            loop = self._loop
            before, seen = seen, loop.serving
            if seen is None or seen is not before or not loop.disown(seen):
                continue
            self._stuck.append(loop)
            self.timeouts += 1
            successor = Loop(self)
            successor.start()
            self._loop = successor
            _log.error(
                "request %d of node %#x takes longer than %g s; answering with the host's file",
                seen[0],
                seen[2],
                self.timeout_s,
            )
            self._answer_stuck(loop, seen)

    def _answer_stuck(self, loop: Loop, request: Request) -> None:
        replies = [wire.failure_reply(*request[:2])]
        # The host's file may block as well.
        reader = threading.Thread(
            target=lambda: replies.append(loop.fallback(request)), name="fallback", daemon=True
        )
        reader.start()
        reader.join(self.timeout_s)
        try:
            os.write(self.device, replies[-1])
        except OSError:
            _log.info("the stuck request was answered or given up meanwhile")


class Loop(threading.Thread):
    """Reads and answers until the connection ends, `stop` is readable, or it is disowned."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(name=connection.name, daemon=True)
        self._connection = connection
        #: The request in service, None between requests.
        self.serving: Request | None = None
        #: Set when this server is about to end: what arrives now is for the next one.
        self.leaving = False
        #: Set once the watchdog has answered in place of this thread, which then ends.
        self.disowned = False
        #: Held to decide who answers: this thread or the watchdog.
        self._answering = threading.Lock()

    def run(self) -> None:
        """Serve. Any error but the end of the connection ends the thread, and so the server."""
        buffer = bytearray(wire.BUFFER)
        buffers, body = [buffer], memoryview(buffer)
        connection, read = self._connection, self._reader()
        unpack, header = wire.REQUEST.unpack_from, wire.IN_HEADER.size
        call, answer, fallback = connection.guard.call, self._answer, self.fallback
        counts, counted = connection.counts, wire.OPCODES - 1
        while True:
            try:
                length = read(buffers)
            except OSError as error:
                if error.errno in ENDED:
                    connection.on_end()
                    return
                if error.errno not in (errno.ENOENT, errno.EAGAIN):  # the caller was interrupted
                    raise
                continue
            if not length or (self.leaving and connection.can_resend):
                return  # the kernel resends what was taken
            opcode, unique, node, pid = unpack(buffer)
            counts[opcode & counted] += 1
            if opcode in wire.UNANSWERED:
                continue  # FORGET and INTERRUPT: nothing here depends on them
            request = (opcode, unique, node, pid, bytes(body[header:length]))
            self.serving = request
            reply = call(f"request {opcode}", answer, fallback, request)
            with self._answering:
                if self.disowned:
                    return
                self.serving = None
            if reply is not None:
                try:
                    os.write(connection.device, reply)
                except OSError as error:
                    # ENOENT: the caller was killed meanwhile.
                    if error.errno not in (errno.ENOENT, *ENDED):
                        connection.guard.warn("answer", "the kernel refused an answer: %s", error)

    def disown(self, request: Request) -> bool:
        """Take a request from this thread, which then ends; False if it is answered by now."""
        with self._answering:
            if self.serving is not request:
                return False
            self.disowned = True
            return True

    def fallback(self, request: Request) -> bytes:
        """Return the answer in place of a handler, an error if that fails; in any thread."""
        opcode, unique, *_ = request
        ask: Callable[[Request], bytes | None] = self._connection.requests.fallback
        data = self._connection.guard.call("fallback", ask, lambda _: None, request)
        if data is None:
            return wire.failure_reply(opcode, unique)
        return wire.data_reply(unique, data)

    def _answer(self, request: Request) -> bytes | None:
        opcode, unique, node, pid, body = request
        requests = self._connection.requests
        handler = requests.handlers.get(opcode)
        try:
            data = handler(node, pid, body) if handler else None
            if data is None:
                data = requests.other(request)
        except Refused as refused:
            return wire.error_reply(unique, refused.errno)
        return None if data is None else wire.data_reply(unique, data)

    def _reader(self) -> Callable[[list[bytearray]], int]:
        """Return what reads the next request; it returns 0 once `stop` is readable."""
        device, stop, queue = self._connection.device, self._connection.stop, self._connection.queue
        if queue is not None:
            return queue.read
        poll = select.poll()
        poll.register(device, select.POLLIN)
        poll.register(stop, select.POLLIN)

        def read(buffers: list[bytearray]) -> int:
            if any(fd == stop for fd, _ in poll.poll()):
                return 0
            return os.readv(device, buffers)

        return read


def device_of_server(device: int, *, can_resend: bool) -> int:
    """Return the descriptor whose requests are this process's own."""
    if can_resend:
        return device
    clone = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    fcntl.ioctl(clone, wire.DEV_IOC_CLONE, struct.pack("=I", device))
    return clone
