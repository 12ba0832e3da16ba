"""The reader of each controller of a cgroup: v1's, v2's, or none.

The same for pure and hybrid hosts. Knows no process and no container.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Protocol, TypeVar

from pylxcfs.formats import cgroupvalue
from pylxcfs.sources import v1, v2
from pylxcfs.sources.cgroups import Hierarchies, Paths, Place
from pylxcfs.sources.kept import KeptFile
from pylxcfs.sources.request import RequestReader
from pylxcfs.views.model import BlockIO, CpuLimit, CpuUsage, Memory

_T = TypeVar("_T")
#: Constructors of a reader, by the version of the hierarchy.
_Kinds = Mapping[int, Callable[[Place, Hierarchies], _T]]


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


_MEMORY: _Kinds[_MemoryReader] = {1: v1.MemoryReader, 2: v2.MemoryReader}
_QUOTA: _Kinds[_QuotaReader] = {1: v1.QuotaReader, 2: v2.QuotaReader}
_CPUSET: _Kinds[_CpusetReader] = {1: v1.CpusetReader, 2: v2.CpusetReader}
_USAGE: _Kinds[_UsageReader] = {1: v1.UsageReader, 2: v2.UsageReader}
_BLOCKIO: _Kinds[_BlockIOReader] = {1: v1.BlockIOReader, 2: v2.BlockIOReader}


class Readers:
    """The readers of one cgroup.

    Each is made at its first use, as the first read of a new container waits for this. Values are
    None where there is no such controller, or the cgroup is its hierarchy's root.
    """

    def __init__(self, hierarchies: Hierarchies, paths: Paths) -> None:
        self._hierarchies = hierarchies
        self._paths = paths
        self._pressure: v2.PressureReader | None = None
        #: cgroup.controllers, which changes when v2's parent enables or disables a controller.
        self._controllers: KeptFile | None = None
        self._enabled: bytes | None = None
        found = hierarchies.unified(paths)
        if found is not None and not found.is_root:
            self._pressure = v2.PressureReader(found)
            self._controllers = KeptFile(found.own, "cgroup.controllers")
            self._enabled = self._controllers.read()

    def _reader(self, controller: str, kinds: _Kinds[_T]) -> _T | None:
        place = self._hierarchies.place(controller, self._paths)
        if place is None or place.is_root:
            return None
        return kinds[place.version](place, self._hierarchies)

    @cached_property
    def _memory(self) -> _MemoryReader | None:
        return self._reader("memory", _MEMORY)

    @cached_property
    def _quota(self) -> _QuotaReader | None:
        return self._reader("cpu", _QUOTA)

    @cached_property
    def _cpuset(self) -> _CpusetReader | None:
        return self._reader("cpuset", _CPUSET)

    @cached_property
    def _usage(self) -> _UsageReader | None:
        return self._reader("cpuacct", _USAGE)

    @cached_property
    def _block_io(self) -> _BlockIOReader | None:
        return self._reader("blkio", _BLOCKIO)

    def outdated(self) -> bool:
        """Tell whether controllers were enabled or disabled since these readers were made."""
        return self._controllers is not None and self._controllers.read() != self._enabled

    @cached_property
    def _request(self) -> RequestReader:
        return RequestReader(self._hierarchies, self._paths)

    def memory(self) -> Memory | None:
        found = self._memory.read() if self._memory is not None else None
        if found is None or (limit := self._request.memory(found.limit)) == found.limit:
            return found
        return replace(found, limit=limit)

    def slabinfo(self) -> bytes | None:
        return self._memory.slabinfo() if self._memory is not None else None

    def cpu_limit(self) -> CpuLimit:
        return CpuLimit(
            cpuset=self._cpuset.cpus() if self._cpuset is not None else None,
            quota=self._request.cpus(self._quota.read() if self._quota is not None else None),
        )

    def mems(self) -> frozenset[int] | None:
        return self._cpuset.mems() if self._cpuset is not None else None

    def cpu_usage(self) -> CpuUsage | None:
        return self._usage.read() if self._usage is not None else None

    def block_io(self) -> Mapping[tuple[int, int], BlockIO] | None:
        return self._block_io.read() if self._block_io is not None else None

    def threads(self) -> int | None:
        """Return pids.current: the threads in the cgroup and below it.

        None where the pids controller does not count this cgroup. The file is not kept open, as
        it is read until the sampler has counted once.
        """
        place = self._hierarchies.place("pids", self._paths)
        if place is None or place.is_root:
            return None
        text = KeptFile(place.own, "pids.current").read()
        return None if text is None else cgroupvalue.number(text)

    def pressure(self, resource: str) -> bytes | None:
        return self._pressure.read(resource) if self._pressure is not None else None
