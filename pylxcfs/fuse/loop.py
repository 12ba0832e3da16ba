"""One thread that reads requests from a connection and answers them, one at a time.

How a request is answered is the table of the mount (`Requests`). A handler that does not come back
(a file of the kernel that blocks) is answered by the watchdog of connection.py with a fallback,
and the thread is replaced. Knows messages; does not know files, processes or containers.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from pylxcfs.errors import Refused
from pylxcfs.fuse import wire
from pylxcfs.fuse.queue import FairQueue
from pylxcfs.guard import Guard

#: node id, pid of the caller (0: not visible here), body -> the data of the answer.
Handler = Callable[[int, int, bytes], bytes]

#: A request in service: opcode, unique, node id, pid, body.
Request = tuple[int, int, int, int, bytes]

#: Errors of read(2) on /dev/fuse that end the connection: unmounted, aborted.
ENDED: Final = (errno.ENODEV, errno.ECONNABORTED)


def is_disowned() -> bool:
    """Return whether the watchdog has answered in place of this thread."""
    return bool(getattr(threading.current_thread(), "disowned", False))


class Requests(Protocol):
    """What the requests of one mount mean. What answers one may raise Refused."""

    @property
    def handlers(self) -> Mapping[int, Handler]:
        """By opcode."""

    def other(self, request: Request) -> bytes | None:
        """Answer a request that has no handler; None: pyfuse3 answers it."""

    def fallback(self, request: Request) -> bytes:
        """Answer a request whose handler failed or did not come back in time."""

    def key(self, opcode: int, node: int, pid: int, word: int) -> int:
        """Return the container that a request belongs to, for the fair queue."""


class Loop(threading.Thread):
    """Reads and answers until the connection ends, `stop` is readable, or it is disowned."""

    def __init__(
        self,
        name: str,
        requests: Requests,
        guard: Guard,
        device: int,
        queue: FairQueue | None,
        stop: int,
        ended: Callable[[], object],
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._requests = requests
        self._guard = guard
        self._device = device
        self._queue = queue
        self._stopping = stop  # Thread has a method `_stop`
        self._ended = ended
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
        device = self._device
        read = self._reader()
        unpack, header = wire.REQUEST.unpack_from, wire.IN_HEADER.size
        call, answer, fallback = self._guard.call, self._answer, self.fallback
        while True:
            try:
                length = read(buffers)
            except OSError as error:
                if error.errno in ENDED:
                    self._ended()
                    return
                if error.errno not in (errno.ENOENT, errno.EAGAIN):  # the caller was interrupted
                    raise
                continue
            if not length or (self.leaving and self._queue is not None):
                return  # the kernel resends what was taken
            opcode, unique, node, pid = unpack(buffer)
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
                    os.write(device, reply)
                except OSError as error:
                    # ENOENT: the caller was killed meanwhile.
                    if error.errno not in (errno.ENOENT, *ENDED):
                        self._guard.warn("answer", "the kernel refused an answer: %s", error)

    def disown(self, request: Request) -> bool:
        """Take a request from this thread, which then ends; False if it is answered by now."""
        with self._answering:
            if self.serving is not request:
                return False
            self.disowned = True
            return True

    def fallback(self, request: Request) -> bytes:
        """Return the answer in place of a handler, EIO if that fails as well; in any thread."""
        return self._guard.call("fallback", self._fall_back, _eio, request)

    def _answer(self, request: Request) -> bytes | None:
        opcode, unique, node, pid, body = request
        handler = self._requests.handlers.get(opcode)
        try:
            data = handler(node, pid, body) if handler else self._requests.other(request)
        except Refused as refused:
            return wire.error_reply(unique, refused.errno)
        return None if data is None else wire.data_reply(unique, data)

    def _fall_back(self, request: Request) -> bytes:
        unique = request[1]
        try:
            return wire.data_reply(unique, self._requests.fallback(request))
        except Refused as refused:
            return wire.error_reply(unique, refused.errno)

    def _reader(self) -> Callable[[list[bytearray]], int]:
        """Return what reads the next request; it returns 0 once `stop` is readable."""
        if self._queue is not None:
            return self._queue.read
        device, stop = self._device, self._stopping
        poll = select.poll()
        poll.register(device, select.POLLIN)
        poll.register(stop, select.POLLIN)

        def read(buffers: list[bytearray]) -> int:
            if any(fd == stop for fd, _ in poll.poll()):
                return 0
            return os.readv(device, buffers)

        return read


def _eio(request: Request) -> bytes:
    return wire.error_reply(request[1], errno.EIO)
