"""Containers that share a pid namespace (Kubernetes' shareProcessNamespace).

The namespace's init is the pod's pause container, whose cgroup says nothing of the others. But
each has a cgroup namespace, and the root of that is the cgroup that the runtime made for it.
A process sees its own cgroup relative to that root; the host sees it whole; the difference of the
two is the root's path.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from pylxcfs.errors import Gone, PylxcfsError
from pylxcfs.formats import pidcgroup
from pylxcfs.sources.cgroups import Hierarchies, Paths
from pylxcfs.sources.containers import ContainerSource, start_of
from pylxcfs.sources.kept import Descriptor, read_whole
from pylxcfs.sources.translation import Translator

#: Processes of which the start is looked at: the kernel lists old ones first (v1 by pid, v2 as
#: they came), and a container may have any number.
_MOST_LOOKED_AT = 64


@dataclass(frozen=True, slots=True)
class Sibling:
    """A container that has a cgroup namespace of its own.

    The namespace is held open: its inode number is not another's as long as this is known.
    """

    container: ContainerSource
    namespace: Descriptor

    @classmethod
    def make(
        cls, hierarchies: Hierarchies, translator: Translator, pid: int, cgroupns: int
    ) -> Sibling:
        """Find the root of the cgroup namespace `cgroupns`, in which process `pid` is."""
        namespace = Descriptor.open(f"/proc/{pid}/ns/cgroup")
        inside = pidcgroup.parse(translator.cgroup_of(pid))
        outside = pidcgroup.parse(read_whole(hierarchies.cgroup_file(pid)))
        # All three are of one process, unless it has ended or entered another namespace.
        if os.fstat(namespace.number).st_ino != cgroupns:
            raise Gone(f"/proc/{pid}/ns/cgroup: it is another namespace now")
        paths = roots(outside, inside)
        if not paths:
            raise Gone(f"/proc/{pid}/cgroup: it is outside of its cgroup namespace")
        started = _start_of_oldest(hierarchies, paths, pid)
        return cls(ContainerSource(hierarchies, paths=paths, started_ns=started), namespace)


def roots(outside: Paths, inside: Paths) -> Paths:
    """Return the namespace's root in each hierarchy in which the process is below it."""
    found: dict[str, str] = {}
    for name, path in outside.items():
        tail = inside.get(name, "")
        if tail == "/":
            found[name] = path
        elif tail and not tail.startswith("/..") and path.endswith(tail):
            found[name] = path[: -len(tail)] or "/"
    return found


def _start_of_oldest(hierarchies: Hierarchies, paths: Paths, pid: int) -> int:
    """Return the start of the oldest process in the container's own cgroup."""
    starts = [start_of(hierarchies.root, pid)]
    for controller in ("pids", "memory", "cpu"):
        place = hierarchies.place(controller, paths)
        if place is None or place.is_root:
            continue
        try:
            for member in read_whole(f"{place.own}/cgroup.procs").split()[:_MOST_LOOKED_AT]:
                starts.append(start_of(hierarchies.root, int(member)))
        except PylxcfsError:
            continue  # one of them ended just now; the others were looked at
        break
    return min(starts)
