"""A mounted connection as one server uses it: its loop, its fair queue, its watchdog.

The connection is older than this process and outlives it: the keeper mounted it and has answered
INIT. Requests that a dead server had taken are asked for again (Linux 6.9+). Older kernels hand
out requests per opened device, so there each server opens a clone, and what dies with it fails
with ECONNABORTED.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from pylxcfs.fuse import wire
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
        requests: Requests,
        guard: Guard,
        timeout_s: float,
        on_end: Callable[[], object],
        *,
        can_resend: bool,
    ) -> None:
        self._device = device
        self._timeout_s = timeout_s
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._queue = FairQueue(device, requests.key) if can_resend else None
        self._make_loop = partial(
            Loop, name, requests, guard, device, self._queue, self._stop, on_end
        )
        self._loop = self._make_loop()
        self._watchdog = threading.Thread(target=self._watch, name=f"watchdog-{name}", daemon=True)
        self._stuck: list[Loop] = []
        self._over = threading.Event()

    def serve(self) -> None:
        """Start to answer, with the requests that a dead server left."""
        if self._queue is not None:
            try:
                os.write(self._device, wire.NOTIFY_RESEND)
            except OSError as error:
                _log.warning("the kernel does not resend unanswered requests: %s", error)
        self._loop.start()
        if self._timeout_s:
            self._watchdog.start()

    @property
    def healthy(self) -> bool:
        """False when another server should take over."""
        return (
            self._loop.is_alive()
            and (self._watchdog.is_alive() or not self._timeout_s)
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
        os.eventfd_write(self._stop, 1)
        deadline = time.monotonic() + _LEAVE_S
        if self._queue is None:
            loop.join(_LEAVE_S)  # what a clone has taken is lost without an answer
        while loop.serving is not None and time.monotonic() < deadline:
            time.sleep(_MOMENT_S)

    def _watch(self) -> None:
        """Answer a request that takes longer than the timeout, and start another thread."""
        seen: Request | None = None
        while not self._over.wait(self._timeout_s):
            self._stuck = [loop for loop in self._stuck if loop.is_alive()]
            loop = self._loop
            before, seen = seen, loop.serving
            if seen is None or seen is not before or not loop.disown(seen):
                continue
            self._stuck.append(loop)
            successor = self._make_loop()
            successor.start()
            self._loop = successor
            _log.error(
                "request %d of node %#x takes longer than %g s; answering with the host's file",
                seen[0],
                seen[2],
                self._timeout_s,
            )
            self._answer_stuck(loop, seen)

    def _answer_stuck(self, loop: Loop, request: Request) -> None:
        replies = [wire.error_reply(request[1], errno.EIO)]
        # The host's file may block as well.
        reader = threading.Thread(
            target=lambda: replies.append(loop.fallback(request)), name="fallback", daemon=True
        )
        reader.start()
        reader.join(self._timeout_s)
        try:
            os.write(self._device, replies[-1])
        except OSError:
            _log.info("the stuck request was answered or given up meanwhile")


def device_of_server(device: int, *, can_resend: bool) -> int:
    """Return the descriptor whose requests are this process's own."""
    if can_resend:
        return device
    clone = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    fcntl.ioctl(clone, wire.DEV_IOC_CLONE, struct.pack("=I", device))
    return clone
