"""What the resources of a process are: the values, with units, and as JSON.

Sizes and times have their unit in the field's name (_bytes, _s, _us); CPUs, threads and percent
are counted as each class says. `None` is "no limit" at a limit that `Resources.sources` tells the
file of, and "not known" everywhere else, as each field says. No I/O is done here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from pylxcfs.formats.pressure import Stall
from pylxcfs.resources import advice


@lru_cache(maxsize=1024)
def readable(path: str) -> str:
    """Return a path for JSON and for people: bytes that are not UTF-8 are U+FFFD."""
    return os.fsencode(path).decode(errors="replace")


class Source(NamedTuple):
    """Where a value comes from."""

    #: The file's name in its cgroup ("memory.max"; with "@" an extended attribute of it), a path
    #: (/proc/meminfo), or a system call.
    file: str
    #: In the hierarchy: 0 is the cgroup that was asked about (of a process in another container,
    #: that container's), 1 its parent. None outside of cgroups.
    level: int | None = None
    #: The file's path as this process sees it. The service leaves it out for containers.
    path: str | None = None

    def document(self, *, with_paths: bool = True) -> dict[str, Any]:
        """Return it for JSON."""
        path = {"path": readable(self.path)} if with_paths and self.path else {}
        return {"file": self.file, "level": self.level, **path}


class Cpu(NamedTuple):
    """CPUs. Those of a cpuset are what the kernel lets it use, ancestors included."""

    #: Numbers of the CPUs that pylxcfs shows: online, in the cpuset, as many as the quota fills.
    visible: tuple[int, ...]
    #: CPU time per time (quota / period); None: no limit. The smallest of all levels.
    quota: float | None
    #: None: no cpuset is known.
    cpuset: tuple[int, ...] | None
    #: CPUs of sched_getaffinity(2) of the process; None: not known.
    affinity: tuple[int, ...] | None
    #: v1's cpu.shares; None: not known.
    shares: int | None
    #: v2's cpu.weight; None: not known.
    weight: int | None
    #: CPUs that its shares or weight ask for, as runtimes and Kubernetes write them: 1024 shares
    #: are one CPU. None at the kernel's default, which asks for nothing.
    requested: float | None


class Memory(NamedTuple):
    """Memory in bytes, the page cache included."""

    #: The smallest limit of all levels; None: no limit.
    limit_bytes: int | None
    #: MemTotal: the limit, at most what the machine has.
    total_bytes: int
    #: Of the cgroup and what is below it; None: not known.
    usage_bytes: int | None
    #: MemFree: the least that any level leaves.
    free_bytes: int
    #: MemAvailable: free, and what the kernel can reclaim.
    available_bytes: int


class Swap(NamedTuple):
    """Swap in bytes."""

    #: None: no limit. v1 has one on memory and swap together: that minus the memory limit.
    limit_bytes: int | None
    #: SwapTotal: 0 where the machine has none.
    total_bytes: int
    #: None: not known.
    usage_bytes: int | None
    #: SwapFree.
    free_bytes: int


class Processes(NamedTuple):
    """Threads, which is what the pids controller counts."""

    #: The smallest limit of all levels; None: no limit.
    limit: int | None
    #: How many there are; None: not known.
    threads: int | None
    #: The least that any level leaves; None: no limit.
    left: int | None


class Load(NamedTuple):
    """Load averages over 1, 5 and 15 minutes; None: not sampled (yet)."""

    averages: tuple[float, float, float] | None
    #: Threads that run, and all threads; None: not known.
    running: int | None
    total: int | None


class HugePages(NamedTuple):
    """Huge pages of one size, in bytes."""

    size_bytes: int
    #: The smallest limit of all levels; None: no limit.
    limit_bytes: int | None
    usage_bytes: int

    @property
    def name(self) -> str:
        """The size as cgroups name it, as in "2MB"."""
        return size_name(self.size_bytes)


def size_name(size: int) -> str:
    """Return the name of a size of huge pages (mem_fmt, mm/hugetlb_cgroup.c)."""
    shift, unit = next(
        (pair for pair in ((30, "GB"), (20, "MB"), (10, "KB")) if size >> pair[0]), (0, "B")
    )
    return f"{size >> shift}{unit}"


class Cgroup(NamedTuple):
    """The cgroup, as the process sees it."""

    #: "v1", "v2" or "hybrid": which hierarchies there are.
    version: str
    #: Its path by v1 controller; that of v2 is under "unified". "/" where the process is in another
    #: cgroup namespace than the process that asks. To clients in another one the service says "/"
    #: of all.
    paths: Mapping[str, str]

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        paths = {name: readable(path) for name, path in self.paths.items()}
        return {**self._asdict(), "paths": paths}


class Security(NamedTuple):
    """Linux security modules."""

    #: Those that are active; None: not known (securityfs is not mounted).
    modules: tuple[str, ...] | None
    #: The label of the process: an AppArmor profile, an SELinux context. None: none.
    label: str | None


class Device(NamedTuple):
    """A device of this machine."""

    #: "char" or "block".
    type: str
    major: int
    minor: int
    #: Path of its node below /dev, as the kernel names it (DEVNAME): "null", "infiniband/uverbs2".
    name: str


class Devices(NamedTuple):
    """Devices that the rules of a cgroup let a process open, for reading or for writing.

    Permissions and the presence of a node in /dev are not examined.
    """

    #: Character devices first, each by numbers. None: no limit if there are `sources`, else not
    #: known.
    allowed: tuple[Device, ...] | None
    #: The rules that were read: "devices.list" of v1, and "bpf(2)" for the programs of v2, whose
    #: path is the cgroup's. Both count on a hybrid host.
    sources: tuple[Source, ...]
    #: Why they are not known, for people; else None. Not in the JSON: it names files of the host.
    unknown: str | None = None

    def document(self, *, with_paths: bool = True) -> dict[str, Any]:
        """Return it for JSON. `with_paths`: the paths of sources as well."""
        allowed = self.allowed
        return {
            "allowed": None if allowed is None else [device._asdict() for device in allowed],
            "sources": [source.document(with_paths=with_paths) for source in self.sources],
        }


class Resources(NamedTuple):
    """What a process may use, uses, and has left, at one time."""

    #: "container": memory and CPUs are a container's, with limits or without, or those of a cgroup
    #: that has limits. "host": they are the machine's, as there is no limit. "unknown": they are
    #: the machine's, but there may be limits: the cgroup hierarchies of memory and CPUs are not
    #: mounted here, or not so that its cgroup can be found in them.
    scope: str
    cpu: Cpu
    memory: Memory
    swap: Swap
    processes: Processes
    #: By resource (cpu, memory, io, irq), then some and full.
    pressure: Mapping[str, Mapping[str, Stall]]
    load: Load
    #: Since the container's init started.
    uptime_s: float
    #: Numbers of the visible nodes.
    numa_nodes: tuple[int, ...]
    huge_pages: tuple[HugePages, ...]
    cgroup: Cgroup
    security: Security
    #: The file that decided about a value, by its name: "memory.limit_bytes", "cpu.quota". Of
    #: values that are one thing by the part's: "load", "pressure.cpu".
    sources: Mapping[str, Source]

    def limits(self) -> dict[str, object]:
        """Return what changes by a decision and not by use, by name."""
        return {
            "cpu.visible": self.cpu.visible,
            "cpu.quota": self.cpu.quota,
            "cpu.cpuset": self.cpu.cpuset,
            "cpu.shares": self.cpu.shares,
            "cpu.weight": self.cpu.weight,
            "memory.limit_bytes": self.memory.limit_bytes,
            "memory.total_bytes": self.memory.total_bytes,
            "swap.limit_bytes": self.swap.limit_bytes,
            "processes.limit": self.processes.limit,
            "numa_nodes": self.numa_nodes,
            **{f"huge_pages.{one.name}.limit_bytes": one.limit_bytes for one in self.huge_pages},
            "cgroup.paths": dict(self.cgroup.paths),
        }

    def document(self, *, with_paths: bool = True) -> dict[str, Any]:
        """Return it for JSON, with the advice. `with_paths`: the paths of sources as well."""
        pressure = {
            resource: {kind: stall._asdict() for kind, stall in stalls.items()}
            for resource, stalls in self.pressure.items()
        }
        return {
            "scope": self.scope,
            "cpu": self.cpu._asdict(),
            "memory": self.memory._asdict(),
            "swap": self.swap._asdict(),
            "processes": self.processes._asdict(),
            "pressure": pressure,
            "load": self.load._asdict(),
            "uptime_s": self.uptime_s,
            "numa_nodes": self.numa_nodes,
            "huge_pages": [one._asdict() for one in self.huge_pages],
            "cgroup": self.cgroup.document(),
            "security": self.security._asdict(),
            "advice": {
                "threads": advice.threads(self)._asdict(),
                "heap_bytes": advice.heap_bytes(self)._asdict(),
            },
            "sources": {
                name: source.document(with_paths=with_paths)
                for name, source in self.sources.items()
            },
        }
