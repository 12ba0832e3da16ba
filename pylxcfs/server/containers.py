"""Callers and containers as tree/ asks for them: the registry and what is beside it.

Nothing here raises but `open_trigger`: what cannot be known is None or 0.
"""

from __future__ import annotations

import errno
import os

from pylxcfs.errors import SourceError
from pylxcfs.sources.cgroups import Hierarchies
from pylxcfs.sources.containers import ContainerSource
from pylxcfs.sources.helper import Positions
from pylxcfs.sources.identity import Identity, pidns_of
from pylxcfs.sources.personality import is_32bit
from pylxcfs.sources.prewarm import Prewarm
from pylxcfs.sources.registry import Registry
from pylxcfs.views.model import Container

#: Bytes of a caller's mountinfo that are read: a container may have 100,000 mounts.
_MOST_MOUNTINFO = 1 << 18

#: Seconds that readers wait at most for the process that examines them, while a server starts.
_SETTLE_S = 0.2


class Containers:
    """The port of tree/ports.py. `caller_mount` is its path, "" if there is none."""

    def __init__(
        self, registry: Registry, hierarchies: Hierarchies, prewarm: Prewarm, caller_mount: str
    ) -> None:
        self.host_pidns = registry.host_identity.pidns
        self._registry = registry
        self._hierarchies = hierarchies
        self._prewarm = prewarm
        self._caller_mount = f" / {caller_mount} ".encode()
        self._own_mounts = _mount_namespace("self")
        self._positions = Positions()

    def start(self) -> None:
        """Start what the first reader in the middle of a text needs."""
        self._positions.start()

    def settle(self) -> None:
        """Wait a little until that is ready: no text is replaced under such a reader then."""
        self._positions.settle(_SETTLE_S)

    def identify(self, pid: int) -> Identity | None:
        """Return the container of a process."""
        return self._registry.identify(pid)

    def namespace(self, pid: int) -> int:
        """Return the pid namespace of a process."""
        return pidns_of(pid) if pid else 0

    def get(self, owner: tuple[int, int], pid: int) -> ContainerSource | None:
        """Return a container; where `pid` does not lead to it, one found in the background."""
        identity = Identity(*owner)
        found = self._registry.get(identity, pid)
        if found is None:
            found = self._registry.get(identity, self._registry.search(identity))
        return found

    def host_caller(self, pid: int) -> Container | None:
        """Return a host process's own cgroup, if it limits anything."""
        return self._registry.host_caller(pid)

    def sees_caller_mount(self, pid: int) -> bool:
        """Return whether the path of the caller mount leads to it in a process's mounts."""
        if _mount_namespace(str(pid)) == self._own_mounts != "":
            return True
        try:
            with open(f"/proc/{pid}/mountinfo", "rb") as file:
                return self._caller_mount in file.read(_MOST_MOUNTINFO)
        except OSError:
            return False

    def prewarm(self, owner: tuple[int, int], pid: int) -> None:
        """Prepare for a container whose files are being bound."""
        self._prewarm.note(Identity(*owner), pid)

    def offset(self, tid: int) -> int | None:
        """Return the file position of a thread that waits in read(2)."""
        return self._positions.offset(tid)

    def opens(self, tid: int) -> bool:
        """Return whether a thread waits in open(2)."""
        return self._positions.opens(tid)

    def is_32bit(self, pid: int) -> bool:
        """Return whether a process has a 32-bit personality."""
        return is_32bit(pid)

    def open_trigger(self, owner: tuple[int, int], pid: int, path: str) -> int:
        """Open the pressure file of the container's cgroup, or the host's. Raise OSError."""
        container = self._registry.get(Identity(*owner), pid)
        resource = path.rpartition("/")[2]
        file = f"/{path}"
        if container is not None:
            try:
                place = self._hierarchies.unified(container.paths())
            except SourceError as error:
                raise OSError(errno.ENODEV, str(error)) from error
            if place is not None and not place.is_root:
                file = f"{place.own}/{resource}.pressure"
        return os.open(file, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def known(self) -> list[Identity]:
        """Return the containers that live."""
        return [identity for identity, _ in self._registry.containers()]


def _mount_namespace(pid: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return ""
