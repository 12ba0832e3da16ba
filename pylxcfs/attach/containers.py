"""The containers that run on this host, found by their pid namespaces.

One mount namespace is one container: of the processes in it, the one whose pid namespace is the
outermost stands for it. The host's own mount namespace and pid namespace are no container;
nor are the mount namespaces of pid 1 and of this process, where they differ (the node agent).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from pylxcfs.errors import PylxcfsError
from pylxcfs.formats import mountinfo, terminal
from pylxcfs.sources import runtimes
from pylxcfs.sources.kept import read_whole

#: Letters of a container's text that are shown.
_LONGEST: Final = 300


class Container(NamedTuple):
    """A container by one of its processes; `pidfd` is closed by the caller."""

    pid: int
    pidfd: int
    name: str
    #: Its mount namespace, as the link in /proc names it.
    namespace: str


class _Found(NamedTuple):
    #: Number of pid namespaces around it, and its pid in its own: the smallest stands for all.
    depth: int
    own_pid: int
    pid: int


def printable(text: str) -> str:
    """Return text of a container for a log or a terminal: one line without control characters."""
    return terminal.printable(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")


def running(proc: str = "/proc") -> Iterator[Container]:
    """Yield all containers. One that ends meanwhile is left out."""
    host = os.readlink(f"{proc}/self/ns/pid")
    hosts = hosts_mounts(proc)
    found: dict[str, _Found] = {}
    for name in filter(str.isdigit, os.listdir(proc)):
        with contextlib.suppress(OSError):
            mounts = os.readlink(f"{proc}/{name}/ns/mnt")
            if mounts in hosts or os.readlink(f"{proc}/{name}/ns/pid") == host:
                continue
            ids = _ids(proc, name)
            one = _Found(len(ids), ids[-1], int(name))
            found[mounts] = min(one, found.get(mounts, one))
    for mounts, one in sorted(found.items(), key=lambda item: item[1].pid):
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(one.pid)
            if os.readlink(f"{proc}/{one.pid}/ns/mnt") == mounts:
                yield Container(one.pid, pidfd, runtimes.of(one.pid, proc).name, mounts)
            else:  # the pid is another's by now
                os.close(pidfd)


def hosts_mounts(proc: str = "/proc") -> set[str]:
    """Return the mount namespaces that are no container's, as the links in /proc name them."""
    found = {os.readlink(f"{proc}/self/ns/mnt")}
    with contextlib.suppress(OSError):
        found.add(os.readlink(f"{proc}/1/ns/mnt"))
    return found


def by_name(name: str, proc: str = "/proc") -> list[Container]:
    """Return the containers with a name, or with an id that begins with it."""
    found = []
    for container in running(proc):
        if runtimes.of(container.pid, proc).matches(name):
            found.append(container)
        else:
            os.close(container.pidfd)
    return found


def by_pid(pid: int) -> Container:
    """Return the container of a process. Raise OSError if it has ended."""
    pidfd = os.pidfd_open(pid)
    try:
        return Container(pid, pidfd, runtimes.of(pid).name, os.readlink(f"/proc/{pid}/ns/mnt"))
    except OSError:
        os.close(pidfd)
        raise


def is_set_up(container: Container, settled_s: float, proc: str = "/proc") -> bool:
    """Return whether the root of a container is its own, or will not change any more.

    Before pivot_root(2) it is the host's. A container that shares the host's root for good is
    known by its age.
    """
    with contextlib.suppress(OSError, PylxcfsError):
        if _root_of(proc, str(container.pid)) != _root_of(proc, "self"):
            return True
        age = time.time() - os.stat(f"{proc}/{container.pid}").st_ctime
        return age >= settled_s
    return False


def _root_of(proc: str, pid: str) -> tuple[str, str] | None:
    """Return device and directory of what is mounted at a process's root; opens nothing there."""
    found = None
    for mount in mountinfo.parse(read_whole(f"{proc}/{pid}/mountinfo")):
        if mount.mountpoint == "/":
            found = mount.device, mount.root
    return found


def _ids(proc: str, name: str) -> list[int]:
    """Return a process's pids, from the outermost namespace to its own (NSpid of status)."""
    with open(f"{proc}/{name}/status", "rb") as file:
        for line in file:
            if line.startswith(b"NSpid:"):
                return [int(word) for word in line.split()[1:]]
    raise ProcessLookupError(f"{proc}/{name}/status")
