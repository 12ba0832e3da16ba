"""A mounted connection as one server uses it: its loop, its fair queue, its watchdog.

The connection is older than this process and outlives it: the keeper mounted it and has answered
INIT. Requests that a dead server had taken are asked for again (Linux 6.9+). Older kernels hand
out requests per opened device, so there each server opens a clone, and what dies with it fails
with ECONNABORTED.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import threading
import time
from collections.abc import Callable
from typing import Final

from pylxcfs.fuse import memory, wire
from pylxcfs.fuse.loop import Loop, Request, Requests
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


class Connection:
    """One mount of one server. `timeout_s` 0: a request may take for ever."""

    def __init__(
        self,
        name: str,
        device: int,
        memory_fd: int,
        guard: Guard,
        timeout_s: float,
        on_end: Callable[[], object],
    ) -> None:
        self.name = name
        self.memory = memory_fd
        self.header = memory.read(memory_fd)
        self._guard = guard
        self._timeout_s = timeout_s
        self._on_end = on_end
        self.device = device if self.header.can_resend else _clone(device)
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._queue: FairQueue | None = None
        self._loop: Loop | None = None
        self._watchdog: threading.Thread | None = None
        self._stuck: list[Loop] = []
        self._over = threading.Event()

    def serve(self, requests: Requests) -> None:
        """Start to answer, with the requests that a dead server left."""
        if self.header.can_resend:
            self._queue = FairQueue(self.device, requests.key)
            try:
                os.write(self.device, wire.NOTIFY_RESEND)
            except OSError as error:
                _log.warning("the kernel does not resend unanswered requests: %s", error)
        self._start_loop(requests)
        if self._timeout_s:
            self._watchdog = threading.Thread(
                target=self._watch, args=(requests,), name=f"watchdog-{self.name}", daemon=True
            )
            self._watchdog.start()

    @property
    def healthy(self) -> bool:
        """False when another server should take over."""
        loop, watchdog = self._loop, self._watchdog
        return (
            loop is not None
            and loop.is_alive()
            and (watchdog is None or watchdog.is_alive())
            and len(self._stuck) < _MOST_STUCK
        )

    def give_way(self) -> None:
        """Wait while a request is in service, but not for long.

        Two threads of one interpreter take turns, and each turn makes a reader wait.
        """
        loop = self._loop
        for _ in range(_MOST_MOMENTS):
            if loop is None or loop.serving is None:
                break
            time.sleep(_MOMENT_S)

    def close(self) -> None:
        """Take no more requests, and finish the one in service. The mount stays."""
        self._over.set()
        loop = self._loop
        if loop is None:
            return
        loop.leaving = True
        os.eventfd_write(self._stop, 1)
        deadline = time.monotonic() + _LEAVE_S
        if self._queue is None:
            loop.join(_LEAVE_S)  # what a clone has taken is lost without an answer
        while loop.serving is not None and time.monotonic() < deadline:
            time.sleep(_MOMENT_S)

    def _start_loop(self, requests: Requests) -> None:
        loop = Loop(
            self.name, requests, self._guard, self.device, self._queue, self._stop, self._on_end
        )
        loop.start()
        self._loop = loop

    def _watch(self, requests: Requests) -> None:
        """Answer a request that takes longer than the timeout, and start another thread."""
        seen: Request | None = None
        while not self._over.wait(self._timeout_s):
            self._stuck = [loop for loop in self._stuck if loop.is_alive()]
            loop = self._loop
            request = loop.serving if loop is not None else None
            if loop is None or request is None or request is not seen:
                seen = request
                continue
            if not loop.disown(request):
                continue
            self._stuck.append(loop)
            self._start_loop(requests)
            _log.error(
                "request %d of node %#x takes longer than %g s; answering with the host's file",
                request[0],
                request[2],
                self._timeout_s,
            )
            self._answer_stuck(requests, request)

    def _answer_stuck(self, requests: Requests, request: Request) -> None:
        replies: list[bytes | None] = [wire.error_reply(request[1], 5)]  # EIO

        def answer() -> None:
            replies.append(requests.fallback(request))

        # The host's file may block as well.
        reader = threading.Thread(target=answer, name="fallback", daemon=True)
        reader.start()
        reader.join(self._timeout_s)
        reply = replies[-1]
        try:
            if reply is not None:
                os.write(self.device, reply)
        except OSError:
            _log.info("the stuck request was answered or given up meanwhile")


def _clone(connection: int) -> int:
    """Open the device again on the same connection: its requests are this process's own."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    fcntl.ioctl(device, wire.DEV_IOC_CLONE, struct.pack("=I", connection))
    return device
