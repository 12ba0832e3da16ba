"""Readers of one cgroup's files on cgroup v2: a class per controller.

v1.py has the same classes with the same methods. Where a controller is not enabled for the
cgroup itself, the closest ancestor with the controller counts its processes, and is read.
The hierarchy's root is never read: it has no limits and counts the whole machine. Sizes are
bytes, times are nanoseconds.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cached_property

from pylxcfs.formats import cgroupvalue, cpulist, cpustat, iostat, memorystat
from pylxcfs.sources import v1
from pylxcfs.sources.cgroups import Hierarchies, Origin, Place
from pylxcfs.sources.kept import KeptFile
from pylxcfs.sources.v1 import Above, Found, WeightReader, origin_of, smallest, value_of
from pylxcfs.views.model import BlockIO, CpuUsage, Memory


class MemoryReader:
    """memory.* and memory.swap.*."""

    def __init__(self, place: Place, hierarchies: Hierarchies) -> None:
        # memory.current is nowhere in the root, so the root is never the nearest.
        own = place.nearest("memory.current") or place.own
        self._limit = smallest(hierarchies, place, "memory.max", cgroupvalue.limit)
        self._swap_limit = smallest(hierarchies, place, "memory.swap.max", cgroupvalue.limit)
        self._usage = KeptFile(own, "memory.current")
        self._swap_usage = KeptFile(own, "memory.swap.current")
        self._stat = KeptFile(own, "memory.stat")
        self._place, self._own = place, own
        #: Limits of the last read.
        self._found: Found[int] | None = None
        self._swap_found: Found[int] | None = None
        self._counts_swap = False
        self._above = Above(hierarchies, place, own, "memory.max", "memory.current", None)
        self._swap_above = Above(
            hierarchies, place, own, "memory.swap.max", "memory.swap.current", None
        )
        #: What the levels above leave, at the last read.
        self._left: Found[int] | None = None
        self._swap_left: Found[int] | None = None

    def read(self) -> Memory | None:
        usage = self._usage.read()
        stat = self._stat.read()
        if usage is None or stat is None:
            return None
        swap_usage = self._swap_usage.read()
        # Without a limit no ancestor has one.
        self._found = found = self._limit.get()
        self._counts_swap = swap_usage is not None
        self._swap_found = swap_found = self._swap_limit.get() if self._counts_swap else None
        limit, swap_limit = value_of(found), value_of(swap_found)
        self._left = None if limit is None else self._above.left()
        self._swap_left = None if swap_limit is None else self._swap_above.left()
        return Memory(
            limit=limit,
            usage=cgroupvalue.number(usage),
            swap_limit=swap_limit,
            swap_usage=None if swap_usage is None else cgroupvalue.number(swap_usage),
            swappiness=None,
            stat=memorystat.parse(stat),
            left=value_of(self._left),
            swap_left=value_of(self._swap_left),
        )

    def slabinfo(self) -> bytes | None:
        return None

    def limit_origin(self) -> Origin:
        return origin_of(self._found) or self._origins["memory.max"]

    def swap_origin(self) -> Origin | None:
        if not self._counts_swap:
            return None
        return origin_of(self._swap_found) or self._origins["memory.swap.max"]

    def usage_origin(self) -> Origin:
        return self._origins["memory.current"]

    def left_origins(self) -> tuple[Origin | None, Origin | None]:
        return origin_of(self._left), origin_of(self._swap_left)

    def own_origins(self) -> tuple[Origin, Origin]:
        return self._origins["memory.stat"], self._origins["memory.swap.current"]

    @cached_property
    def _origins(self) -> dict[str, Origin]:
        names = (
            *("memory.max", "memory.swap.max", "memory.current"),
            *("memory.stat", "memory.swap.current"),
        )
        return {name: self._place.origin(self._own, name) for name in names}


class QuotaReader:
    """cpu.max of the cgroup and its ancestors."""

    def __init__(self, place: Place, hierarchies: Hierarchies) -> None:
        self._smallest = smallest(hierarchies, place, "cpu.max", cgroupvalue.cpu_max)
        self._place, self._hierarchies = place, hierarchies
        self._found: Found[float] | None = None

    def read(self) -> float | None:
        self._found = found = self._smallest.get()
        return value_of(found)

    def origin(self) -> Origin:
        return origin_of(self._found) or self._own_quota

    @cached_property
    def _own_quota(self) -> Origin:
        place = self._place
        return place.origin(place.nearest("cpu.max") or place.own, "cpu.max")

    @cached_property
    def _weight(self) -> WeightReader:
        return WeightReader(self._place, self._hierarchies, "cpu.weight")

    def weight(self) -> Found[int] | None:
        return self._weight.read()


class CpusetReader:
    """cpuset.*.effective: the kernel has already cut it to the ancestors' sets."""

    def __init__(self, place: Place, hierarchies: Hierarchies) -> None:
        own = place.nearest("cpuset.cpus.effective") or place.own
        self._place, self._own = place, own
        self._cpus = KeptFile(own, "cpuset.cpus.effective")
        self._mems = KeptFile(own, "cpuset.mems.effective")

    def cpus(self) -> frozenset[int] | None:
        return _numbers(self._cpus)

    def mems(self) -> frozenset[int] | None:
        return _numbers(self._mems)

    def origin(self, what: str) -> Origin:
        return self._origins[what]

    @cached_property
    def _origins(self) -> dict[str, Origin]:
        place, own = self._place, self._own
        return {what: place.origin(own, f"cpuset.{what}.effective") for what in ("cpus", "mems")}


def _numbers(file: KeptFile) -> frozenset[int] | None:
    text = file.read()
    return frozenset(cpulist.parse(text)) or None if text is not None else None


class UsageReader:
    """cpu.stat, which every cgroup has, with and without the cpu controller."""

    def __init__(self, place: Place, hierarchies: Hierarchies) -> None:
        self._stat = KeptFile(place.own, "cpu.stat")

    def read(self) -> CpuUsage | None:
        text = self._stat.read()
        if text is None:
            return None
        stat = cpustat.parse(text)
        return CpuUsage(stat.user_ns, stat.system_ns, None, stat.nice_ns)


class BlockIOReader:
    """io.stat."""

    def __init__(self, place: Place, hierarchies: Hierarchies) -> None:
        own = place.nearest("io.max") or place.own  # the root has io.stat, but no io.max
        self._stat = KeptFile(own, "io.stat")

    def read(self) -> Mapping[tuple[int, int], BlockIO] | None:
        text = self._stat.read()
        if text is None:
            return None
        return {
            device: BlockIO(
                read_bytes=counters.get(b"rbytes", 0),
                write_bytes=counters.get(b"wbytes", 0),
                discard_bytes=counters.get(b"dbytes", 0),
                reads=counters.get(b"rios", 0),
                writes=counters.get(b"wios", 0),
                discards=counters.get(b"dios", 0),
            )
            for device, counters in iostat.parse(text).items()
        }


PidsReader = v1.PidsReader


class HugetlbReader(v1.HugetlbReader):
    """hugetlb.SIZE.max and hugetlb.SIZE.current."""

    LIMIT, USAGE = "max", "current"


class PressureReader:
    """RESOURCE.pressure."""

    def __init__(self, place: Place) -> None:
        self._files = {
            resource: KeptFile(place.own, sys.intern(f"{resource}.pressure"))
            for resource in ("cpu", "memory", "io", "irq")
        }

    def read(self, resource: str) -> bytes | None:
        file = self._files.get(resource)
        # Empty or EOPNOTSUPP where cgroup.pressure is 0 or the kernel was booted with psi=0.
        return file.read() or None if file is not None else None
