"""Which reader each controller of a cgroup gets: v1's, v2's, or none.

One computation for pure and hybrid hosts. Knows no process and no container.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pylxcfs.sources import v1, v2
from pylxcfs.sources.cgroups import Hierarchies, Paths, Place
from pylxcfs.sources.kept import KeptFile
from pylxcfs.views.model import BlockIO, CpuLimit, CpuUsage, Memory


class _MemoryReader(Protocol):
    def read(self) -> Memory | None: ...
    def slabinfo(self) -> bytes | None: ...


class _QuotaReader(Protocol):
    def read(self) -> float | None: ...


class _CpusetReader(Protocol):
    def cpus(self) -> frozenset[int] | None: ...
    def mems(self) -> frozenset[int] | None: ...


class _UsageReader(Protocol):
    def read(self) -> CpuUsage | None: ...


class _BlockIOReader(Protocol):
    def read(self) -> Mapping[tuple[int, int], BlockIO] | None: ...


class Readers:
    """The readers of one cgroup. None where there is no such controller, or it is the root."""

    def __init__(self, hierarchies: Hierarchies, paths: Paths) -> None:
        def place(controller: str) -> Place | None:
            found = hierarchies.place(controller, paths)
            return None if found is None or found.is_root else found

        self._memory: _MemoryReader | None = None
        self._quota: _QuotaReader | None = None
        self._cpuset: _CpusetReader | None = None
        self._usage: _UsageReader | None = None
        self._block_io: _BlockIOReader | None = None
        self._pressure: v2.PressureReader | None = None
        #: cgroup.controllers, which changes when v2's parent enables or disables a controller.
        self._controllers: KeptFile | None = None
        self._enabled: bytes | None = None
        if found := place("memory"):
            memory = v1.MemoryReader if found.version == 1 else v2.MemoryReader
            self._memory = memory(found, hierarchies)
        if found := place("cpu"):
            quota = v1.QuotaReader if found.version == 1 else v2.QuotaReader
            self._quota = quota(found, hierarchies)
        if found := place("cpuset"):
            cpuset = v1.CpusetReader if found.version == 1 else v2.CpusetReader
            self._cpuset = cpuset(found, hierarchies)
        if found := place("cpuacct"):
            usage = v1.UsageReader if found.version == 1 else v2.UsageReader
            self._usage = usage(found, hierarchies)
        if found := place("blkio"):
            block_io = v1.BlockIOReader if found.version == 1 else v2.BlockIOReader
            self._block_io = block_io(found, hierarchies)
        found = hierarchies.unified(paths)
        if found is not None and not found.is_root:
            self._pressure = v2.PressureReader(found)
            self._controllers = KeptFile(f"{found.own}/cgroup.controllers")
            self._enabled = self._controllers.read()

    def outdated(self) -> bool:
        """Tell whether controllers were enabled or disabled since these readers were made."""
        return self._controllers is not None and self._controllers.read() != self._enabled

    def memory(self) -> Memory | None:
        return self._memory.read() if self._memory is not None else None

    def slabinfo(self) -> bytes | None:
        return self._memory.slabinfo() if self._memory is not None else None

    def cpu_limit(self) -> CpuLimit:
        return CpuLimit(
            cpuset=self._cpuset.cpus() if self._cpuset is not None else None,
            quota=self._quota.read() if self._quota is not None else None,
        )

    def mems(self) -> frozenset[int] | None:
        return self._cpuset.mems() if self._cpuset is not None else None

    def cpu_usage(self) -> CpuUsage | None:
        return self._usage.read() if self._usage is not None else None

    def block_io(self) -> Mapping[tuple[int, int], BlockIO] | None:
        return self._block_io.read() if self._block_io is not None else None

    def pressure(self, resource: str) -> bytes | None:
        return self._pressure.read(resource) if self._pressure is not None else None
