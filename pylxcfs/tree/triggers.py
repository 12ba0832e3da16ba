"""Pressure triggers (Documentation/accounting/psi.rst): written to a handle, polled, notified.

A trigger is a descriptor of the cgroup's own pressure file, into which what the reader wrote
went; the kernel does the measuring. When it fires, the poller is woken through FUSE and asks
again. Off by default: a pending poll of a FUSE file can keep a machine from suspending.

A server that takes over knows neither triggers nor pollers. It wakes all pollers there can be,
and answers their next poll with an error, as the kernel does for a trigger whose cgroup is gone:
the program sets its trigger anew.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pylxcfs.fuse import wire
from pylxcfs.tree import nodes

#: What poll(2) says of a file that is always ready (DEFAULT_POLLMASK of include/linux/poll.h).
READY: Final = select.POLLIN | select.POLLOUT | select.POLLRDNORM | select.POLLWRNORM

#: Pollers of a dead server have numbers that count up from 1 with each polled handle.
_OLD_POLLERS: Final = 4096

#: Triggers of one container, and of all: each costs a descriptor here.
_MOST_EACH: Final = 64
_MOST: Final = 4096


@dataclass(slots=True)
class Trigger:
    """One armed trigger: its descriptor, whether it has fired, and who waits for that."""

    descriptor: int
    fired: bool = False
    poller: int = 0


class Triggers:
    """The triggers of one server, by file handle."""

    def __init__(self, notify: Callable[[int], None]) -> None:
        self._notify = notify
        self._by_handle: dict[int, Trigger] = {}
        self._by_descriptor: dict[int, Trigger] = {}
        self._opened: set[int] = set()
        self._epoll = select.epoll()

    def opened(self, handle: int) -> None:
        """Note a handle that may arm a trigger with this server."""
        self._opened.add(handle)

    def arm(self, handle: int, descriptor: int, text: bytes) -> None:
        """Write a trigger to an open pressure file, which is taken over. Raise OSError."""
        of_owner = [nodes.pair_of(other) for other in self._by_handle].count(nodes.pair_of(handle))
        try:
            if handle in self._by_handle:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            if of_owner >= _MOST_EACH or len(self._by_handle) >= _MOST:
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
            os.write(descriptor, text)
            self._epoll.register(descriptor, select.EPOLLPRI)
        except OSError:
            os.close(descriptor)
            raise
        self._by_descriptor[descriptor] = self._by_handle[handle] = Trigger(descriptor)

    def poll(self, handle: int, poller: int, schedule: bool) -> int:
        """Return the events of a handle; with `schedule`, wake `poller` at the next ones."""
        trigger = self._by_handle.get(handle)
        if trigger is None:
            return READY if handle in self._opened else select.POLLERR | select.POLLPRI
        if schedule:
            trigger.poller = poller
        if trigger.fired:
            trigger.fired = False
            return READY | select.POLLPRI
        return READY

    def start(self) -> None:
        """Start the thread that takes what has fired and wakes who waits for it.

        A thread, since asking a trigger takes its event: an event loop that waits for this epoll
        would ask, and leave nothing to find here.
        """
        threading.Thread(target=self._collect, name="triggers", daemon=True).start()

    def _collect(self) -> None:
        while True:
            for descriptor, events in self._epoll.poll():
                trigger = self._by_descriptor.get(descriptor)
                if trigger is None:
                    continue
                if events & (select.EPOLLERR | select.EPOLLHUP):
                    # Its cgroup has ended: the last event. It may be closed already.
                    with contextlib.suppress(OSError):
                        self._epoll.unregister(descriptor)
                trigger.fired = True
                if trigger.poller:
                    self._notify(trigger.poller)

    def wake_all_pollers(self) -> None:
        """Make every poller that an earlier server left ask again."""
        for poller in range(1, _OLD_POLLERS):
            self._notify(poller)

    def release(self, handle: int) -> None:
        """Disarm what a closed handle armed."""
        self._opened.discard(handle)
        trigger = self._by_handle.pop(handle, None)
        if trigger is not None:
            del self._by_descriptor[trigger.descriptor]
            os.close(trigger.descriptor)


def notification(poller: int) -> bytes:
    """The message that wakes a poller (FUSE_NOTIFY_POLL)."""
    return wire.NOTIFY_POLL.pack(wire.NOTIFY_POLL.size, 1, 0, poller)
