"""What a container requests, shown where its cgroup has no limit of its own.

Kubernetes tells a request of memory to its scheduler alone, and one of CPU to the kernel as a
weight. So the node's agent writes it down where the limit would be: an extended attribute of the
cgroup's memory.max and cpu.max (v1: memory.limit_in_bytes, cpu.cfs_quota_us), which kernfs keeps
as long as the cgroup is there. No container can write a name that begins with "trusted."
(xattr_permission, fs/xattr.c: CAP_SYS_ADMIN in the first user namespace). Memory is in bytes, CPUs
are a decimal fraction.
"""

from __future__ import annotations

import os
from typing import Final

from pylxcfs.sources.cgroups import Hierarchies, Paths
from pylxcfs.sources.kept import KeptFile

ATTRIBUTE: Final = "trusted.pylxcfs.request"
#: Controller, and its file by the version of the hierarchy.
_MEMORY: Final = ("memory", {1: "memory.limit_in_bytes", 2: "memory.max"})
_CPU: Final = ("cpu", {1: "cpu.cfs_quota_us", 2: "cpu.max"})
#: More is nonsense.
_MOST_CPUS: Final = 1 << 20


def memory(limit: KeptFile) -> int | None:
    """Return the bytes that are requested; None without a request. The file was read before."""
    text = limit.attribute(ATTRIBUTE)
    return int(text) if text is not None and text.isdigit() and int(text) > 0 else None


def cpus(limit: KeptFile) -> float | None:
    """Return the CPUs that are requested; None without a request. The file was read before."""
    text = limit.attribute(ATTRIBUTE)
    try:
        found = float(text or b"")
    except ValueError:
        return None
    return found if 0 < found < _MOST_CPUS else None


def write(
    hierarchies: Hierarchies, paths: Paths, cpus: float | None, memory_bytes: int | None
) -> None:
    """Note what a container in these cgroups requests. Raise OSError."""
    for (controller, names), value in ((_CPU, cpus), (_MEMORY, memory_bytes)):
        place = hierarchies.place(controller, paths)
        if value is not None and place is not None and not place.is_root:
            path = f"{place.own}/{names[place.version]}"
            os.setxattr(path, ATTRIBUTE, f"{value}".encode())
