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
from collections.abc import Callable
from typing import Final, TypeVar

from pylxcfs.formats import cgroupvalue
from pylxcfs.sources.cgroups import Hierarchies, Origin, Paths
from pylxcfs.sources.kept import KeptFile
from pylxcfs.sources.settings import Setting

_T = TypeVar("_T", int, float)

ATTRIBUTE: Final = "trusted.pylxcfs.request"
#: Controller, and the file of its limit by the version of the hierarchy.
_MEMORY: Final = ("memory", {1: "memory.limit_in_bytes", 2: "memory.max"})
_CPU: Final = ("cpu", {1: "cpu.cfs_quota_us", 2: "cpu.max"})
#: More is nonsense.
_MOST_CPUS: Final = 1 << 20


class RequestReader:
    """What a cgroup requests of what it has no limit of; None without a request."""

    def __init__(self, hierarchies: Hierarchies, paths: Paths) -> None:
        self._hierarchies, self._paths = hierarchies, paths
        self._memory = _setting(hierarchies, paths, _MEMORY, _bytes)
        self._cpus = _setting(hierarchies, paths, _CPU, _fraction)
        #: Whether the last answer was the request, by controller.
        self._is_request = {"memory": False, "cpu": False}

    def memory(self, limit: int | None) -> int | None:
        """Return the smaller of a limit and the bytes that are requested."""
        found = _smaller(limit, self._memory)
        self._is_request["memory"] = found != limit
        return found

    def cpus(self, quota: float | None) -> float | None:
        """Return the smaller of a quota and the CPUs that are requested."""
        found = _smaller(quota, self._cpus)
        self._is_request["cpu"] = found != quota
        return found

    def memory_origin(self, limit: Origin) -> Origin:
        """Return where the last answer was from, for the origin of the limit."""
        return self._origin(_MEMORY, limit)

    def cpu_origin(self, quota: Origin) -> Origin:
        """Return where the last answer was from, for the origin of the quota."""
        return self._origin(_CPU, quota)

    def _origin(self, limit: tuple[str, dict[int, str]], origin: Origin) -> Origin:
        controller, names = limit
        if not self._is_request[controller]:
            return origin
        place = self._hierarchies.place(controller, self._paths)
        assert place is not None, "it had a request"
        return place.origin(place.own, f"{names[place.version]}@{ATTRIBUTE}")


def _smaller(limit: _T | None, setting: Setting[_T | None] | None) -> _T | None:
    requested = None if setting is None else setting.get()
    if limit is None or requested is None:
        return requested if limit is None else limit
    return min(limit, requested)


def _setting(
    hierarchies: Hierarchies,
    paths: Paths,
    limit: tuple[str, dict[int, str]],
    parse: Callable[[bytes], _T | None],
) -> Setting[_T | None] | None:
    controller, names = limit
    place = hierarchies.place(controller, paths)
    if place is None or place.is_root:
        return None
    file = KeptFile(place.own, names[place.version])

    def read() -> _T | None:
        try:
            text = file.read()
            if text is None or _is_limit(text):
                return None
            return parse(file.attribute(ATTRIBUTE) or b"")
        finally:
            file.close()  # it is read after writes alone

    return hierarchies.setting([file], read)


def _is_limit(text: bytes) -> bool:
    # v2's cpu.max: "max 100000".
    word = text.split()[0] if text.strip() else b"max"
    return word != b"max" and cgroupvalue.limit_v1(cgroupvalue.number(word)) is not None


def _bytes(text: bytes) -> int | None:
    return int(text) if text.isdigit() and int(text) > 0 else None


def _fraction(text: bytes) -> float | None:
    try:
        found = float(text)
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
