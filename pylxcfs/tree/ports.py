"""What the tree asks of the rest of the program: callers and their containers.

server/ plugs the real sources in; nothing here reads the kernel.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Protocol

from pylxcfs.views.model import Container


class Known(Container, Protocol):
    """A container that has been found."""

    @property
    def epoch(self) -> int:
        """Start of the pid namespace's init in clock ticks; differs for the next container."""


class Containers(Protocol):
    """From callers to containers. No method raises: what cannot be known is None or 0."""

    #: Inode number of the server's own pid namespace: the host.
    host_pidns: int

    def identify(self, pid: int) -> tuple[int, int] | None:
        """Return (pid namespace, cgroup namespace or 0) of a process or thread."""

    def namespace(self, pid: int) -> int:
        """Return the inode number of a process's pid namespace, 0 if it cannot be known."""

    def get(self, owner: tuple[int, int], pid: int) -> Known | None:
        """Return the container `owner`; `pid` is a process in it or below it (0: none is known)."""

    def host_caller(self, pid: int) -> Container | None:
        """Return the view of a process in the host's pid namespace: its own cgroup."""

    def sees_caller_mount(self, pid: int) -> bool:
        """Return whether the caller mount can be reached from a process's mount namespace."""

    def prewarm(self, owner: tuple[int, int], pid: int) -> None:
        """Note a container that may read soon; quick."""

    def offset(self, tid: int) -> int | None:
        """Return the file position of a thread that waits in read(2).

        Negative: it may be about to wait there. None for any other.
        """

    def opens(self, tid: int) -> bool:
        """Return whether a thread waits in open(2), or may be about to."""

    def is_32bit(self, pid: int) -> bool:
        """Return whether a process has a 32-bit personality, where a file depends on that."""

    def open_trigger(self, owner: tuple[int, int], pid: int, path: str) -> int:
        """Open the container's own file behind "proc/pressure/X" for triggers. Raise OSError."""

    def known(self) -> Iterable[tuple[int, int]]:
        """Return the containers that were found and live."""


class CgroupCaller(Protocol):
    """A process that asks for something, and no later one with its pid."""

    @property
    def key(self) -> Hashable:
        """What limits go by: its container, or on the host its user."""

    @property
    def rights(self) -> bytes:
        """A digest of what it may do, and of its namespaces."""

    def with_rights(self) -> CgroupCaller:
        """Return it with the rights that it has now. May block; raise OSError."""

    def view(self, hierarchy: str, number: int) -> CgroupView:
        """Return a cgroup as it sees it. May block; raise OSError."""


class CgroupView(Protocol):
    """A cgroup as one caller sees it. Each method may block, and raises OSError."""

    @property
    def inside(self) -> bool:
        """Whether it is the caller's own cgroup or below that."""

    @property
    def next(self) -> str | None:
        """The one name that the caller sees in a cgroup above its own; None for any other."""

    def stat(self, name: str = "") -> os.stat_result:
        """Return the attributes of the cgroup, or of a file or cgroup in it."""

    def entries(self, after: int) -> Iterator[tuple[int, str, os.stat_result]]:
        """List (st_ino, name, attributes) of what the caller sees there behind that st_ino."""

    def check_open(self, name: str, *, write: bool) -> None:
        """Raise where a file may not be opened, whatever its mode."""

    def read(self, name: str) -> bytes:
        """Return the text of a file, with pids of the caller's pid namespace."""

    def write(self, name: str, data: bytes) -> None:
        """Write to a file as the caller; pids are those of its pid namespace."""

    def mkdir(self, name: str, mode: int) -> None:
        """Make a cgroup as the caller."""

    def rmdir(self, name: str) -> None:
        """Remove a cgroup as the caller."""

    def chmod(self, name: str, mode: int) -> None:
        """Change a mode as the caller; without a name that of the cgroup's directory."""

    def chown(self, name: str, uid: int, gid: int) -> None:
        """Change an owner as the caller; -1 leaves it."""


class CgroupHierarchy(Protocol):
    """A hierarchy that is served."""

    @property
    def name(self) -> str:
        """Its name in the tree."""

    @property
    def aliases(self) -> tuple[str, ...]:
        """Controllers that are links to it."""

    @property
    def attributes(self) -> os.stat_result:
        """Attributes of its root."""


class CgroupFiles(Protocol):
    """cgroupfs for callers."""

    @property
    def served(self) -> Mapping[str, CgroupHierarchy]:
        """Hierarchies by key: "" is v2, else the first of its controllers."""

    def caller(self, pid: int) -> CgroupCaller:
        """Return the process with that pid. Does not block; raise OSError."""

    def key(self, pid: int) -> Hashable:
        """Return what the limits of that process go by. Does not block; raise OSError."""
