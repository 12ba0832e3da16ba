"""The reader of each controller of a cgroup: v1's, v2's, or none.

The same for pure and hybrid hosts. Knows no process and no container.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Protocol, TypeVar

from pylxcfs.formats import cgroupvalue
from pylxcfs.sources import v1, v2
from pylxcfs.sources.cgroups import Hierarchies, Origin, Paths, Place
from pylxcfs.sources.devices import DeviceRules
from pylxcfs.sources.kept import KeptFile
from pylxcfs.sources.request import RequestReader
from pylxcfs.sources.v1 import Found, HugePages, Pids
from pylxcfs.views.model import BlockIO, CpuLimit, CpuUsage, Device, Memory

_T = TypeVar("_T")
#: Constructors of a reader, by the version of the hierarchy.
_Kinds = Mapping[int, Callable[[Place, Hierarchies], _T]]


class _MemoryReader(Protocol):
    def read(self) -> Memory | None: ...
    def limit_origin(self) -> Origin: ...
    def swap_origin(self) -> Origin | None: ...
    def usage_origin(self) -> Origin: ...
    def left_origins(self) -> tuple[Origin | None, Origin | None]: ...
    def own_origins(self) -> tuple[Origin, Origin]: ...
    def slabinfo(self) -> bytes | None: ...


class _QuotaReader(Protocol):
    def read(self) -> float | None: ...
    def origin(self) -> Origin: ...
    def weight(self) -> Found[int] | None: ...


class _CpusetReader(Protocol):
    def cpus(self) -> frozenset[int] | None: ...
    def mems(self) -> frozenset[int] | None: ...
    def origin(self, what: str) -> Origin: ...


class _UsageReader(Protocol):
    def read(self) -> CpuUsage | None: ...


class _BlockIOReader(Protocol):
    def read(self) -> Mapping[tuple[int, int], BlockIO] | None: ...


_MEMORY: _Kinds[_MemoryReader] = {1: v1.MemoryReader, 2: v2.MemoryReader}
_QUOTA: _Kinds[_QuotaReader] = {1: v1.QuotaReader, 2: v2.QuotaReader}
_CPUSET: _Kinds[_CpusetReader] = {1: v1.CpusetReader, 2: v2.CpusetReader}
_USAGE: _Kinds[_UsageReader] = {1: v1.UsageReader, 2: v2.UsageReader}
_PIDS: _Kinds[v1.PidsReader] = {1: v1.PidsReader, 2: v2.PidsReader}
_BLOCKIO: _Kinds[_BlockIOReader] = {1: v1.BlockIOReader, 2: v2.BlockIOReader}


#: Files that limit a cgroup, by controller and version. inotify reports writes to them.
_LIMITS: Mapping[str, Mapping[int, Sequence[str]]] = {
    "memory": {
        1: ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
        2: ("memory.max", "memory.swap.max"),
    },
    "cpu": {
        1: ("cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.shares"),
        2: ("cpu.max", "cpu.weight"),
    },
    "cpuset": dict.fromkeys((1, 2), ("cpuset.cpus", "cpuset.mems")),
    "pids": dict.fromkeys((1, 2), ("pids.max",)),
}
#: Those of one size of huge pages, by version.
_HUGE_LIMIT: Mapping[int, str] = {1: "hugetlb.{}.limit_in_bytes", 2: "hugetlb.{}.max"}
#: v2's file by which a level enables controllers for those below it: their files come and go.
_ENABLED = "cgroup.subtree_control"


#: Levels at either end of a path that `limit_files` has.
_MOST_LEVELS = 16


def _ends(directories: Sequence[str]) -> Sequence[str]:
    if len(directories) <= 2 * _MOST_LEVELS:
        return directories
    return [*directories[:_MOST_LEVELS], *directories[-_MOST_LEVELS:]]


class Readers:
    """The readers of one cgroup.

    Each is made at its first use, as the first read of a new container waits for this. Values are
    None where there is no such controller, or the cgroup is its hierarchy's root.
    """

    def __init__(self, hierarchies: Hierarchies, paths: Paths) -> None:
        self._hierarchies = hierarchies
        self._paths = paths
        self._pressure: v2.PressureReader | None = None
        self._hugetlb: dict[str, v1.HugetlbReader | None] = {}
        #: cgroup.controllers, which changes when v2's parent enables or disables a controller.
        self._controllers: KeptFile | None = None
        self._enabled: bytes | None = None
        found = hierarchies.unified(paths)
        if found is not None and not found.is_root:
            self._pressure = v2.PressureReader(found)
            self._controllers = KeptFile(found.own, "cgroup.controllers")
            self._enabled = self._controllers.read()
        cpu = hierarchies.place("cpu", paths)
        #: v1's cpu cgroup: nothing that is read each time is in it, and another may have its path.
        self._cpu = cpu.own if cpu is not None and cpu.version == 1 else None
        self._cpu_number = self._number_of_cpu()

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
    def _pids(self) -> v1.PidsReader | None:
        return self._reader("pids", _PIDS)

    @cached_property
    def _block_io(self) -> _BlockIOReader | None:
        return self._reader("blkio", _BLOCKIO)

    def outdated(self) -> bool:
        """Tell whether other readers are needed since these were made.

        Controllers were enabled or disabled, or v1's cpu cgroup was removed.
        """
        if self._number_of_cpu() != self._cpu_number:
            return True
        return self._controllers is not None and self._controllers.read() != self._enabled

    def _number_of_cpu(self) -> int:
        try:
            return os.stat(self._cpu).st_ino if self._cpu is not None else 0
        except OSError:
            return 0

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

    @cached_property
    def _devices(self) -> DeviceRules:
        return DeviceRules(
            self._hierarchies.named("devices", self._paths),
            self._hierarchies.in_v2(self._paths),
        )

    def may_open(self, devices: Iterable[Device]) -> frozenset[Device] | None:
        return self._devices.may_open(devices)

    def device_origins(self) -> dict[str, Origin]:
        """Return the rules that the last answer of `may_open` follows from."""
        return self._devices.origins()

    def pids(self) -> Pids | None:
        """Return the number of threads, and the limit on it."""
        return self._pids.read() if self._pids is not None else None

    def huge_pages(self, size: str) -> HugePages | None:
        """Return limit and usage of one size of huge pages, as in "2MB"."""
        if size not in self._hugetlb:
            kinds: _Kinds[v1.HugetlbReader] = {
                1: partial(v1.HugetlbReader, size=size),
                2: partial(v2.HugetlbReader, size=size),
            }
            self._hugetlb[size] = self._reader("hugetlb", kinds)
        reader = self._hugetlb[size]
        return None if reader is None else reader.read()

    def cpu_weight(self) -> Found[int] | None:
        """Return v1's cpu.shares or v2's cpu.weight; the origin says which."""
        return self._quota.weight() if self._quota is not None else None

    def origins(self) -> dict[str, Origin]:
        """Return where the values of the last read came from, by name.

        As far as there is such a controller. "memory.left" and "swap.left": the level above that
        leaves the least; "memory.stat": what the kernel can reclaim.
        """
        memory, quota, cpuset = self._memory, self._quota, self._cpuset
        found: dict[str, Origin] = {}
        if memory is not None:
            found["memory.limit_bytes"] = self._request.memory_origin(memory.limit_origin())
            found["memory.usage_bytes"] = memory.usage_origin()
            swap = memory.swap_origin()
            found["memory.stat"], usage = memory.own_origins()
            if swap is not None:
                found["swap.limit_bytes"], found["swap.usage_bytes"] = swap, usage
            for name, left in zip(("memory.left", "swap.left"), memory.left_origins(), strict=True):
                if left is not None:
                    found[name] = left
        if quota is not None:
            found["cpu.quota"] = self._request.cpu_origin(quota.origin())
        if cpuset is not None:
            found["cpu.cpuset"] = cpuset.origin("cpus")
            found["numa_nodes"] = cpuset.origin("mems")
        return found

    def limit_files(self, sizes: Iterable[str] = ()) -> list[str]:
        """Return the files by which the limits of this cgroup change, also those not there yet.

        `sizes`: of huge pages, as in "2MB". Of deep cgroups only the levels at both ends have a
        place in it, as each file costs a watch and the owner of a cgroup nests as many as he likes.
        """
        unified = self._hierarchies.in_v2(self._paths)
        # These come first: a controller that is enabled while files are watched is noticed.
        above = unified.directories[1:] if unified is not None else ()
        files = [f"{directory}/{_ENABLED}" for directory in _ends(above)]
        huge = {
            version: [name.format(one) for one in sizes] for version, name in _HUGE_LIMIT.items()
        }
        for controller, names in {**_LIMITS, "hugetlb": huge}.items():
            place = self._hierarchies.place(controller, self._paths)
            if place is not None:
                files += [
                    f"{directory}/{name}"
                    for directory in _ends(place.limiting)
                    for name in names[place.version]
                ]
        return files

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
