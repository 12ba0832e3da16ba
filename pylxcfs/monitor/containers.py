"""The containers that run: name, limits, usage, and what their files are bound to.

Read from /proc, cgroups and the files of runtimes on the host. A container may choose its cgroups'
names and its mounts: texts are bounded, and `printable` is for those that are shown.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from typing import Any, Final

from pylxcfs.attach import containers
from pylxcfs.attach.containers import Container
from pylxcfs.errors import PylxcfsError
from pylxcfs.formats import mountinfo, terminal
from pylxcfs.monitor import bindings
from pylxcfs.monitor.bindings import Devices
from pylxcfs.sources import runtimes
from pylxcfs.sources.cgroups import Hierarchies
from pylxcfs.sources.containers import ContainerSource
from pylxcfs.sources.identity import pidns_of
from pylxcfs.units import NS_PER_S

#: Mounts of one container: more than that in its table is not read.
_MOST_MOUNTINFO: Final = 4 << 20


def listing(devices: Devices) -> list[dict[str, Any]]:
    """Return all containers, as `status --json` prints them."""
    hierarchies = _hierarchies()
    found = []
    for container in containers.running():
        try:
            with contextlib.suppress(OSError, PylxcfsError):
                found.append(_describe(container, hierarchies, devices))
        finally:
            os.close(container.pidfd)
    return found


@functools.cache
def _hierarchies() -> Hierarchies:
    """Return the cgroup hierarchies, found once as a server does.

    Each has an inotify instance, of which a user has 128, and a server is the same user.
    """
    return Hierarchies.discover()


def printable(text: str, most: int = 200) -> str:
    """Return text without what a terminal would obey, and not too long."""
    return terminal.printable(text[:most])


def _describe(container: Container, hierarchies: Hierarchies, devices: Devices) -> dict[str, Any]:
    pid = container.pid
    named = runtimes.of(pid)
    pidns = pidns_of(pid)
    source = ContainerSource(hierarchies, init=pid)
    memory = limit = usage = None
    with contextlib.suppress(PylxcfsError):
        memory = source.memory()
    with contextlib.suppress(PylxcfsError):
        limit = source.cpu_limit()
    with contextlib.suppress(PylxcfsError):
        usage = source.cpu_usage()
    age_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - source.started_ns()
    cpus = None
    if limit is not None:
        bounds = [limit.quota, len(limit.cpuset) if limit.cpuset else None]
        cpus = min((bound for bound in bounds if bound is not None), default=None)
    return {
        "name": named.name,
        "runtime": named.runtime or None,
        "id": named.ident,
        "pod": runtimes.pod_of(pid),
        "pid": pid,
        "pidns": pidns,
        "age_s": round(age_ns / NS_PER_S, 1),
        "memory_limit_bytes": memory.limit if memory else None,
        "memory_usage_bytes": memory.usage if memory else None,
        "cpus": cpus,
        "cpu_s": (usage.user_ns + usage.system_ns) / NS_PER_S if usage else None,
        "files": bindings.bound(_mounts_of(pid), pidns, devices),
    }


def _mounts_of(pid: int) -> list[mountinfo.Mount]:
    with open(f"/proc/{pid}/mountinfo", "rb") as file:
        text = file.read(_MOST_MOUNTINFO)
    return mountinfo.parse(text[: text.rfind(b"\n") + 1])
