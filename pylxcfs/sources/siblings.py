"""Containers that share a pid namespace (Kubernetes' shareProcessNamespace).

The namespace's init is the pod's pause container, which has a cgroup of its own. But each
container has a cgroup namespace, and the root of that is the cgroup that the runtime made for it.

A process of ours in that namespace sees its own cgroup relative to the root, as "/../../ours",
which says how deep the root is. The root is so much of the path of a process of the container,
which is below it wherever it moves. The difference of that process's path outside and inside would
say the same, but to read both takes time, and a process that moves from x/x to x between the two
would have made the root's parent its own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from pylxcfs.errors import Gone, PylxcfsError, SourceError
from pylxcfs.formats import pidcgroup
from pylxcfs.sources.cgroups import Hierarchies, Paths, Place
from pylxcfs.sources.containers import (
    ContainerSource,
    WantLoad,
    clock_offset_of,
    start_ticks_of,
)
from pylxcfs.sources.helper import Translator
from pylxcfs.sources.kept import Descriptor, read_start, read_whole
from pylxcfs.sources.readers import Readers
from pylxcfs.units import NS_PER_TICK

#: Processes of which the start is read: the kernel lists old ones first (v1 by pid, v2 as they
#: came), and a container may have any number.
_STARTS_READ = 64
_BYTES_READ = 512

#: v1 sorts the whole list of processes for each reader of cgroup.procs (pidlist_array_load): 10 ms
#: for 100,000. With more threads than this in the cgroup it is not read.
_MOST_THREADS = 4096


@dataclass(frozen=True, slots=True)
class Sibling:
    """A container that has a cgroup namespace of its own.

    The namespace is held open: its inode number is not another's as long as this is known.
    """

    container: ContainerSource
    namespace: Descriptor

    @classmethod
    def make(
        cls,
        hierarchies: Hierarchies,
        translator: Translator,
        pid: int,
        cgroupns: int,
        *,
        epoch: int,
        want_load: WantLoad | None = None,
    ) -> Sibling:
        """Find the container with the cgroup namespace of process `pid`.

        `cgroupns`: the expected inode number. `epoch`: that of the shared pid namespace. Raise Gone
        if the process is not in it, SourceError if the namespace cannot be entered.
        """
        namespace = Descriptor.open(f"/proc/{pid}/ns/cgroup")
        if os.fstat(namespace.number).st_ino != cgroupns:
            raise Gone(f"/proc/{pid}/ns/cgroup: it is another namespace")
        paths = namespace_roots(hierarchies, translator, pid)
        if not paths:
            raise Gone(f"/proc/{pid}/cgroup: it is outside of its cgroup namespace")
        started = _start_of_oldest(hierarchies, paths, pid)
        container = ContainerSource(
            hierarchies,
            paths=paths,
            epoch=epoch,
            started_ns=started * NS_PER_TICK,
            clock_offset_ns=clock_offset_of(hierarchies.root, pid),
            want_load=want_load,
        )
        return cls(container, namespace)


def namespace_roots(hierarchies: Hierarchies, translator: Translator, pid: int) -> Paths:
    """Return the roots of a process's cgroup namespace. Raise Gone, SourceError."""
    inside, *ours = map(pidcgroup.parse, translator.cgroups_of(pid))
    return roots(pidcgroup.parse(read_whole(hierarchies.cgroup_file(pid))), inside, *ours)


def roots(outside: Paths, inside: Paths, ours_inside: Paths, ours: Paths) -> Paths:
    """Return the namespace's root in each hierarchy.

    From the cgroup of a process in the namespace and that of one of ours, each seen from the
    server's namespace and from the other. Hierarchies in which the process is not below the root
    are left out.
    """
    found: dict[str, str] = {}
    for name, path in outside.items():
        if name not in ours or inside.get(name, "/..").startswith("/.."):
            continue
        seen, whole, names = (_names(text) for text in (ours_inside[name], ours[name], path))
        up = seen.count("..")
        common = len(whole) - (len(seen) - up)
        # Below 0 the two have met above the root of the server's namespace.
        start = whole[:common] if common >= 0 else [".."] * -common
        depth = len(start) + up
        if names[: len(start)] == start and len(names) >= depth:
            found[name] = "/" + "/".join(names[:depth])
    return found


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name]


def _start_of_oldest(hierarchies: Hierarchies, paths: Paths, pid: int) -> int:
    """Return the start of the container's oldest process, in clock ticks.

    Of the first few processes in its own cgroup and `pid`.
    """
    starts = [start_ticks_of(hierarchies.root, pid)]
    for controller in ("pids", "memory", "cpu"):
        place = hierarchies.place(controller, paths)
        if place is None or place.is_root:
            continue
        try:
            for member in _first_processes(hierarchies, place, paths):
                starts.append(start_ticks_of(hierarchies.root, member))
        except PylxcfsError:
            continue  # one of them has just ended; the others were read
        break
    return min(starts)


def _first_processes(hierarchies: Hierarchies, place: Place, paths: Paths) -> list[int]:
    if place.version == 1:
        threads = Readers(hierarchies, paths).threads()
        if threads is None or threads > _MOST_THREADS:
            return []
    try:
        text = read_start(f"{place.own}/cgroup.procs", _BYTES_READ)
    except SourceError:
        # v2 lists no processes in a threaded cgroup (EOPNOTSUPP). Its threads have starts as well.
        if place.version == 1:
            raise
        text = read_start(f"{place.own}/cgroup.threads", _BYTES_READ)
    # What follows the last newline may be half a number.
    lines = text.split(b"\n")[:-1]
    return [int(line) for line in lines[:_STARTS_READ]]
