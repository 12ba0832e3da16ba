"""What the filesystem asks of the rest of the program: who is asking, and their containers.

daemon.py plugs the real sources in; nothing here reads the kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from pylxcfs.views.model import Container


class Known(Container, Protocol):
    """A container as those who keep it need it."""

    @property
    def gone(self) -> bool:
        """Whether it has ended, or is another by now: ask for it again."""
        ...

    @property
    def released(self) -> bool:
        """Whether its files were closed for those that asked later: ask for it again."""
        ...


class Containers(Protocol):
    """From callers to containers. No method raises: what cannot be known is None."""

    #: Inode number of the daemon's own pid namespace: the host.
    host_pidns: int
    #: Whether `reading` can tell anything on this machine.
    tells_readings: bool

    def identify(self, pid: int) -> tuple[int, int] | None:
        """Return (pid namespace, cgroup namespace or 0) of a process or thread."""
        ...

    def namespace(self, pid: int) -> int:
        """Return the inode number of a process's pid namespace, 0 if it cannot be known."""
        ...

    def get(self, owner: tuple[int, int], pid: int) -> Known | None:
        """Return the container of `owner`, of which `pid` is a process (0: any will do)."""
        ...

    def knows(self, owner: tuple[int, int]) -> bool:
        """Whether a container has asked before and lives; quick."""
        ...

    def expect(self, owner: tuple[int, int], pid: int) -> None:
        """Note that a container, of which `pid` is a process, may read soon; quick."""
        ...

    def host_caller(self, pid: int) -> Container | None:
        """Return the view of a process in the host's pid namespace: its own cgroup."""
        ...

    def is_32bit(self, pid: int) -> bool:
        """Whether a process has a 32-bit personality, on hosts where a file depends on that."""
        ...

    def reading(self, tid: int, with_offset: bool) -> tuple[int, int | None] | None:
        """Return (bytes asked for, offset) of a thread that waits in read(2).

        0 and None stand for what is not known, or not asked for; None alone for a thread that
        does not read, or of which nothing can be known just now.
        """
        ...

    def program(self, tid: int) -> bytes:
        """Return what names the program that a thread runs; b"" if that cannot be known."""
        ...

    def open_trigger(self, owner: tuple[int, int], pid: int, path: str) -> int:
        """Open, for triggers, the container's own file behind "proc/pressure/X". Raise OSError."""
        ...

    def fileno(self) -> int:
        """Readable when a container has ended: `reap` then."""
        ...

    def reap(self) -> None:
        """Forget the containers that have ended, before their numbers come back."""
        ...

    def known(self) -> Iterable[tuple[int, int]]:
        """Return the owners that have asked and live."""
        ...
