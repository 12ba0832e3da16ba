"""What the tree asks of the rest of the program: callers and their containers.

server/ plugs the real sources in; nothing here reads the kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
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
