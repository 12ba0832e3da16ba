"""Containers that are about to read: found, and their files opened, before they do.

Whose runtime binds a file is seen when the link to it is read. The first read of a container
would otherwise be the one that waits for its init to be found, its cgroups' files to be opened
and its limits to be watched: a millisecond on a machine that was idle.
"""

from __future__ import annotations

import os
from typing import Final

from pylxcfs.sources.identity import Identity
from pylxcfs.sources.kept import Descriptor
from pylxcfs.sources.registry import Registry

#: Containers that start within one pause. More of them find out for themselves.
_MOST: Final = 256


class Expected:
    """Those that somebody else will prepare for: noting one is quick, `prepare` is not."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._pending: dict[Identity, int] = {}
        self._event = Descriptor(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))

    def note(self, identity: Identity, pid: int) -> None:
        """Note a container that is being set up, of which `pid` is a process."""
        if self._registry.is_open(identity) or len(self._pending) >= _MOST:
            return
        self._pending[identity] = pid
        os.eventfd_write(self._event.number, 1)

    def fileno(self) -> int:
        """Readable when `prepare` has something to do."""
        return self._event.number

    def count(self) -> int:
        """Return how many there are, and be readable again when there are more."""
        os.eventfd_read(self._event.number)
        return len(self._pending)

    def prepare(self) -> None:
        """Make one of them known and open its files."""
        identity, pid = self._pending.popitem()
        container = self._registry.get(identity, pid)
        if container is not None:
            container.warm()
