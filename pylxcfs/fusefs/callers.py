"""Who asks, as the packed owner of nodes.py, and the container that is behind one.

Knows no file and no handle.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable
from typing import Final

from pylxcfs.fusefs import nodes
from pylxcfs.fusefs.ports import Containers, Known
from pylxcfs.fusefs.threads import WholeReaders
from pylxcfs.views.model import Container

#: Bounds a table that would otherwise grow with every namespace there ever was.
_MOST_PAIRS: Final = 65536

#: For so long a thread that was known is taken for alive without another look. The event loop
#: hears of its end at once; this is for when that is late, and the kernel hands numbers out in
#: turn, so one that has just ended is hardly the next to be given away.
_MOMENT_NS: Final = 50_000_000


class Callers:
    """From a pid to its owner number, from an owner number to its container."""

    def __init__(self, containers: Containers, readers: WholeReaders) -> None:
        self.containers = containers
        self.host = nodes.pair((containers.host_pidns, 0))
        #: Called before anything is forgotten: what was concluded from it has to go first.
        self.on_end: Callable[[], object] = lambda: None
        #: Readable once something has ended, until `heard` is called.
        self.ended = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._readers = readers
        self._ends = select.epoll()
        self._ends.register(readers.fileno(), select.EPOLLIN)
        self._ends.register(containers.fileno(), select.EPOLLIN)
        self._pairs: dict[tuple[int, int], int] = {}
        #: Containers by owner, of those that have a pid namespace to themselves.
        self._found: dict[int, Known] = {}
        self._refreshed_ns = 0

    def fileno(self) -> int:
        """Readable when `refresh` has something to do."""
        return self._ends.fileno()

    def refresh(self) -> None:
        """Forget threads and containers that have ended; before anything said of a pid is believed.

        One system call where none has.
        """
        now_ns = time.monotonic_ns()
        if self._ends.poll(0):
            os.eventfd_write(self.ended, 1)
            self.on_end()
            self._readers.reap()
            self.containers.reap()
            self._found.clear()
        self._refreshed_ns = now_ns

    def refresh_lately(self) -> int:
        """Do the same unless it was done a moment ago: for threads that were known then.

        Return for how many nanoseconds it need not be done again.
        """
        left_ns = self._refreshed_ns + _MOMENT_NS - time.monotonic_ns()
        if left_ns > 0:
            return left_ns
        self.refresh()
        return _MOMENT_NS

    def heard(self) -> None:
        """Note that whoever cleans up after what has ended is about to do so."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.ended)

    def owner(self, pid: int) -> int:
        """Return the caller's packed owner, 0 if it cannot be known. `refresh` first."""
        return self._readers.owner(pid) or self.identify(pid)

    def identify(self, pid: int) -> int:
        """Return the same without what is remembered of threads."""
        who = self.containers.identify(pid) if pid else None
        if who is None:
            return 0
        packed = self._pairs.get(who)
        if packed is None:
            try:
                packed = nodes.pair(who)
            except ValueError:
                return 0
            if len(self._pairs) >= _MOST_PAIRS:
                self._pairs.clear()
            self._pairs[who] = packed
        return packed

    def namespace(self, pid: int) -> int:
        """Return the pid namespace of a caller, 0 if that is not known. Creates nothing."""
        owner = self._readers.owner(pid)
        return nodes.unpack(owner).pidns if owner else self.containers.namespace(pid)

    def known(self) -> list[int]:
        """Return the packed owners that have asked and live.

        Without those whose namespaces' numbers do not fit: they are nobody here.
        """
        known = []
        for who in self.containers.known():
            with contextlib.suppress(ValueError):
                known.append(nodes.pair(who))
        return known

    def who_lives(self) -> Callable[[int], bool]:
        """Return what tells whether an owner's container is known, for many of them."""
        known = set(self.known())
        # Or it has become known since then.
        return lambda owner: owner in known or self.containers.knows(nodes.unpack(owner))

    def container(self, owner: int, pid: int) -> Container | None:
        """Return the container of an owner for a request of `pid`; None: the host's file."""
        found = self._found.get(owner)
        if found is not None and not (found.gone or found.released):
            return found
        if owner == 0:
            return None
        if owner == self.host:
            return self.containers.host_caller(pid)
        who = nodes.unpack(owner)
        # Who is known needs no process to start from, unless several share a pid namespace.
        if who.cgroupns or not self.containers.knows(who):
            pid = self.member(owner, pid)
        found = self.containers.get(who, pid)
        if found is not None and not who.cgroupns:
            self._found[owner] = found
        return found

    def forget_found(self) -> None:
        """Look containers up again, so that it is known which ones are asked for; now and then."""
        self._found.clear()

    def member(self, owner: int, pid: int) -> int:
        """Return `pid` if it is a process of the owner's, else 0."""
        return pid if self.owner(pid) == owner else 0
