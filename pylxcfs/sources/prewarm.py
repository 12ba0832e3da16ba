"""Containers that are about to read, and are set up before that.

A link that a runtime reads while it binds a file announces the container. Without this its first
read waits until its init is found, its cgroup's files are opened and its limits are watched: a
millisecond on an idle machine.
"""

from __future__ import annotations

import os
from typing import Final

from pylxcfs.sources.identity import Identity
from pylxcfs.sources.kept import Descriptor
from pylxcfs.sources.registry import Registry

#: Containers that are noted at once. More of them are set up by their first read.
_MOST: Final = 256


class Prewarm:
    """The containers to prewarm. `note` is quick; `prepare` is not."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._pending: dict[Identity, int] = {}
        self._event = Descriptor(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))

    def note(self, identity: Identity, pid: int) -> None:
        """Note a container that may read soon; `pid` is in it."""
        if self._registry.is_open(identity) or len(self._pending) >= _MOST:
            return
        self._pending[identity] = pid
        os.eventfd_write(self._event.number, 1)

    def fileno(self) -> int:
        """Return a descriptor that is readable when `prepare` has something to do."""
        return self._event.number

    def count(self) -> int:
        """Return how many are noted, and clear the descriptor."""
        os.eventfd_read(self._event.number)
        return len(self._pending)

    def prepare(self) -> None:
        """Find one of the noted containers and open its files."""
        identity, pid = self._pending.popitem()
        container = self._registry.get(identity, pid)
        if container is not None:
            container.warm()
