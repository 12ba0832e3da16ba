"""Readers of one cgroup's files on cgroup v1: a class per controller.

v2.py has the same classes with the same methods. Each is made for one Place, keeps its files
open, and returns None where the kernel does not have the file. The hierarchy's root is never
read: it counts the whole machine. Sizes are bytes, times are nanoseconds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Generic, NamedTuple, TypeVar

from pylxcfs.formats import blkio, cgroupvalue, cpuacct, cpulist, memorystat
from pylxcfs.sources.cgroups import Hierarchies, Origin, Place
from pylxcfs.sources.kept import KeptFile
from pylxcfs.sources.settings import Setting
from pylxcfs.units import GIB
from pylxcfs.views.model import BlockIO, CpuUsage, Memory

_T = TypeVar("_T", int, float)


#: memory.kmem.slabinfo of a cgroup with more kernel memory than this is not read. Before Linux
#: 5.9 the kernel walks the cgroup's slabs for it (get_slabinfo, mm/slub.c), milliseconds for a GiB.
_MOST_SLABS = GIB


class Found(NamedTuple, Generic[_T]):
    """The smallest limit of a cgroup and its ancestors."""

    value: _T
    #: The file that sets it.
    origin: Origin


class MemoryReader:
    """memory.*: limits from memory.stat's hierarchical_*, which respect use_hierarchy."""

    def __init__(self, place: Place, hierarchies: Hierarchies) -> None:
        own = place.own
        self._place = place
        self._hierarchies = hierarchies
        self._usage = KeptFile(own, "memory.usage_in_bytes")
        self._stat = KeptFile(own, "memory.stat")
        self._memsw_usage = KeptFile(own, "memory.memsw.usage_in_bytes")
        swappiness = KeptFile(own, "memory.swappiness")
        self._swappiness = hierarchies.setting([swappiness], swappiness.read)
        self._kernel = KeptFile(own, "memory.kmem.usage_in_bytes")
        self._above = Above(
            hierarchies, place, own, "memory.limit_in_bytes", "memory.usage_in_bytes"
        )
        self._memsw_above = Above(
            hierarchies, place, own, "memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes"
        )
        self._slabinfo = KeptFile(own, "memory.kmem.slabinfo")
        self._counts_swap = self._stat_has_swap = False
        #: What the levels above leave, at the last read.
        self._left: Found[int] | None = None
        self._memsw_left: Found[int] | None = None

    def read(self) -> Memory | None:
        usage_text = self._usage.read()
        stat_text = self._stat.read()
        if usage_text is None or stat_text is None:
            return None
        usage = cgroupvalue.number(usage_text)
        stat = memorystat.parse_v1(stat_text)
        limits = stat.pop(memorystat.V1_LIMIT, None), stat.pop(memorystat.V1_MEMSW_LIMIT, None)
        swap_usage = stat.pop(memorystat.V1_SWAP, None)
        self._stat_has_swap = swap_usage is not None
        kernel = self._kernel.read()
        if kernel is not None:
            stat[b"kernel"] = cgroupvalue.number(kernel)
        if limits[0] is None:
            limit = value_of(self._limit.get())
        else:
            limit = cgroupvalue.limit_v1(limits[0])
        # Without a limit no ancestor has one.
        self._left = None if limit is None else self._above.left()
        left = value_of(self._left)
        memsw_usage = self._memsw_usage.read()
        self._counts_swap = memsw_usage is not None
        swap_limit = swap_left = None
        if memsw_usage is None:
            swap_usage = None
        else:
            if limits[1] is None:
                memsw = value_of(self._memsw_limit.get())
            else:
                memsw = cgroupvalue.limit_v1(limits[1])
            # The limit is on the sum. Without one on memory all of the sum may be in swap.
            swap_limit = None if memsw is None else max(0, memsw - (limit or 0))
            self._memsw_left = None if memsw is None else self._memsw_above.left()
            sum_left = value_of(self._memsw_left)
            if sum_left is not None:
                # The rest of the sum, after the container has all memory that it can get.
                memory_left = (limit or 0) - usage
                swap_left = sum_left - (memory_left if left is None else min(left, memory_left))
            if swap_usage is None:
                swap_usage = max(0, cgroupvalue.number(memsw_usage) - usage)
        swappiness = self._swappiness.get()
        return Memory(
            limit=limit,
            usage=usage,
            swap_limit=swap_limit,
            swap_usage=swap_usage,
            swappiness=None if swappiness is None else cgroupvalue.number(swappiness),
            stat=stat,
            left=left,
            swap_left=swap_left,
        )

    def limit_origin(self) -> Origin:
        """Return the file that sets the limit, or says that there is none."""
        return origin_of(self._limit.get()) or self._own_limit

    def swap_origin(self) -> Origin | None:
        """Return the file that sets the limit of memory and swap together.

        None where swap was not counted at the last read.
        """
        if not self._counts_swap:
            return None
        return origin_of(self._memsw_limit.get()) or self._own_memsw_limit

    def usage_origin(self) -> Origin:
        """Return the file of the usage."""
        return self._usage_origin

    def left_origins(self) -> tuple[Origin | None, Origin | None]:
        """Return the levels above that leave the least memory and swap, by their files of usage."""
        return origin_of(self._left), origin_of(self._memsw_left)

    def own_origins(self) -> tuple[Origin, Origin]:
        """Return the files of statistics and of swap usage."""
        return self._own_origins

    # Files never asked for cost nothing: most containers are read by files alone.

    @cached_property
    def _own_limit(self) -> Origin:
        return self._place.origin(self._place.own, "memory.limit_in_bytes")

    @cached_property
    def _own_memsw_limit(self) -> Origin:
        return self._place.origin(self._place.own, "memory.memsw.limit_in_bytes")

    @cached_property
    def _usage_origin(self) -> Origin:
        return self._place.origin(self._place.own, "memory.usage_in_bytes")

    @cached_property
    def _own_origins(self) -> tuple[Origin, Origin]:
        own, place = self._place.own, self._place
        usage = "memory.stat" if self._stat_has_swap else "memory.memsw.usage_in_bytes"
        return place.origin(own, "memory.stat"), place.origin(own, usage)

    @cached_property
    def _limit(self) -> Setting[Found[int] | None]:
        name = "memory.limit_in_bytes"
        return smallest(self._hierarchies, self._place, name, cgroupvalue.limit)

    @cached_property
    def _memsw_limit(self) -> Setting[Found[int] | None]:
        return smallest(
            self._hierarchies, self._place, "memory.memsw.limit_in_bytes", cgroupvalue.limit
        )

    def slabinfo(self) -> bytes | None:
        kernel = self._kernel.read()
        if kernel is not None and cgroupvalue.number(kernel) > _MOST_SLABS:
            return None
        # Since Linux 5.9 the file is there but empty.
        return self._slabinfo.read() or None


def smallest(
    hierarchies: Hierarchies, place: Place, name: str, parse: Callable[[bytes], _T | None]
) -> Setting[Found[_T] | None]:
    """Return the smallest limit of a cgroup and its ancestors.

    From their files `name`. The setting's value is None without any limit. Of levels with the same
    limit the lowest counts.
    """
    files = [hierarchies.shared(f"{directory}/{name}") for directory in place.limiting]

    def read() -> Found[_T] | None:
        found: Found[_T] | None = None
        for level, file in enumerate(files):
            text = file.read()
            value = None if text is None else parse(text)
            if value is not None and (found is None or value < found.value):
                found = Found(value, Origin(file.path, level))
        return found

    return hierarchies.setting(files, read)


def value_of(found: Found[_T] | None) -> _T | None:
    """Return the limit; None for no limit."""
    return None if found is None else found.value


def origin_of(found: Found[_T] | None) -> Origin | None:
    """Return the file that sets a limit; None for no limit."""
    return None if found is None else found.origin


class Above:
    """Memory that the levels above a cgroup, `own`, leave to it: their limits minus their usage.

    Usage is read at the levels with a limit only. Levels from the first one on whose
    memory.use_hierarchy is 0 (v1 before Linux 5.11) neither limit nor count what is below;
    v2 has no such file.
    """

    def __init__(
        self,
        hierarchies: Hierarchies,
        place: Place,
        own: str,
        limit: str,
        usage: str,
        hierarchical: str | None = "memory.use_hierarchy",
    ) -> None:
        self._hierarchies = hierarchies
        self._hierarchical_name = hierarchical
        self._place = place
        self._directories = place.above(own)
        self._limit_name = limit
        self._usage_name = usage

    def left(self) -> Found[int] | None:
        """Return the least that a level leaves, by its file of usage; None if none has a limit."""
        if not self._directories:
            return None
        found: Found[int] | None = None
        for limit, file, origin in self._limited.get():
            usage = file.read()
            if usage is not None:
                left = limit - cgroupvalue.number(usage)
                if found is None or left < found.value:
                    found = Found(left, origin)
        return found

    @cached_property
    def _limited(self) -> Setting[list[tuple[int, KeptFile, Origin]]]:
        shared = self._hierarchies.shared
        name = self._hierarchical_name
        levels = [
            (
                shared(f"{directory}/{name}") if name is not None else None,
                shared(f"{directory}/{self._limit_name}"),
                self._place.origin(directory, self._usage_name),
            )
            for directory in self._directories
        ]

        def read() -> list[tuple[int, KeptFile, Origin]]:
            found = []
            for hierarchical, limit_file, usage in levels:
                if hierarchical is not None and hierarchical.read() == b"0\n":
                    break
                text = limit_file.read()
                limit = None if text is None else cgroupvalue.limit(text)
                if limit is not None:
                    found.append((limit, shared(usage.path), usage))
            return found

        files = [file for *pair, _ in levels for file in pair if file is not None]
        return self._hierarchies.setting(files, read)


class QuotaReader:
    """cpu.cfs_quota_us and cpu.cfs_period_us of the cgroup and its ancestors."""

    def __init__(self, place: Place, hierarchies: Hierarchies) -> None:
        pairs = [
            (
                hierarchies.shared(f"{directory}/cpu.cfs_quota_us"),
                hierarchies.shared(f"{directory}/cpu.cfs_period_us"),
            )
            for directory in place.limiting
        ]
        files = [file for pair in pairs for file in pair]
        self._smallest = hierarchies.setting(files, partial(_smallest_quota, pairs))

        self._place, self._hierarchies = place, hierarchies
        self._found: Found[float] | None = None

    def read(self) -> float | None:
        self._found = found = self._smallest.get()
        return value_of(found)

    def origin(self) -> Origin:
        """Return the file that set the quota at the last read, or said that there is none."""
        return origin_of(self._found) or self._own_quota

    @cached_property
    def _own_quota(self) -> Origin:
        return self._place.origin(self._place.own, "cpu.cfs_quota_us")

    @cached_property
    def _shares(self) -> WeightReader:
        return WeightReader(self._place, self._hierarchies, "cpu.shares")

    def weight(self) -> Found[int] | None:
        """Return cpu.shares."""
        return self._shares.read()


class WeightReader:
    """The file of a cgroup's part of the CPU time, where several want it."""

    def __init__(self, place: Place, hierarchies: Hierarchies, name: str) -> None:
        self._origin = place.origin(place.nearest(name) or place.own, name)
        file = KeptFile(self._origin.path)
        self._text = hierarchies.setting([file], file.read)

    def read(self) -> Found[int] | None:
        text = self._text.get()
        return None if text is None else Found(cgroupvalue.number(text), self._origin)


def _smallest_quota(pairs: Sequence[tuple[KeptFile, KeptFile]]) -> Found[float] | None:
    smallest: Found[float] | None = None
    for level, (quota_file, period_file) in enumerate(pairs):
        quota = quota_file.read()
        if quota is None or quota.startswith(b"-"):
            continue
        period = period_file.read()
        if period is not None:
            cpus = cgroupvalue.cfs(quota, period)
            if cpus is not None and (smallest is None or cpus < smallest.value):
                smallest = Found(cpus, Origin(quota_file.path, level))
    return smallest


class CpusetReader:
    """cpuset.*: the cgroup's own sets, which are inside its parent's."""

    def __init__(self, place: Place, hierarchies: Hierarchies) -> None:
        self._place = place
        self._hierarchies = hierarchies
        self._cpus = KeptFile(place.own, "cpuset.effective_cpus")
        self._mems = KeptFile(place.own, "cpuset.effective_mems")

    def cpus(self) -> frozenset[int] | None:
        return _first_set([self._cpus]) or _first_set(self._configured("cpuset.cpus"))

    def mems(self) -> frozenset[int] | None:
        return _first_set([self._mems]) or _first_set(self._configured("cpuset.mems"))

    def origin(self, what: str) -> Origin:
        """Return the file of the sets, `what` is cpus or mems."""
        return self._origins[what]

    @cached_property
    def _origins(self) -> dict[str, Origin]:
        place = self._place
        return {
            what: place.origin(place.own, f"cpuset.effective_{what}") for what in ("cpus", "mems")
        }

    def _configured(self, name: str) -> list[KeptFile]:
        """Return the configured sets, for Linux before 3.17 without effective ones.

        An empty set was never configured; the parent's applies.
        """
        return [self._hierarchies.shared(f"{path}/{name}") for path in self._place.directories]


def _first_set(files: Sequence[KeptFile]) -> frozenset[int] | None:
    for file in files:
        text = file.read()
        if text is not None:
            numbers = cpulist.parse(text)
            if numbers:
                return frozenset(numbers)
    return None


class UsageReader:
    """cpuacct.*: by CPU where the kernel has that, else the total.

    The time of each CPU is exact in usage_percpu alone: user and system are counted by the tick
    (cpuacct_account_field) and give only the ratio in which that time is divided.
    """

    def __init__(self, place: Place, hierarchies: Hierarchies) -> None:
        own = place.own
        self._exact = KeptFile(own, "cpuacct.usage_percpu")
        self._all = KeptFile(own, "cpuacct.usage_all")
        self._user = KeptFile(own, "cpuacct.usage_percpu_user")
        self._system = KeptFile(own, "cpuacct.usage_percpu_sys")
        self._stat = KeptFile(own, "cpuacct.stat")

    def read(self) -> CpuUsage | None:
        sampled = self._sampled()
        if sampled is None:
            stat = self._stat.read()
            if stat is None:
                return None
            return CpuUsage(*cpuacct.parse_stat(stat), None)
        exact = self._exact.read()
        if exact is None:
            totals = list(map(sum, sampled.values()))
        else:
            totals = cpuacct.parse_usage_percpu(exact)
        # Both list the possible CPUs in the same order; only one has their numbers.
        per_cpu: dict[int, tuple[int, int]] = {}
        users = systems = 0
        for (cpu, (user, system)), total in zip(sampled.items(), totals, strict=False):
            # A CPU's exact time is divided as the sampled one is.
            user = total * user // (user + system) if user + system else total
            per_cpu[cpu] = user, total - user
            users += user
            systems += total - user
        return CpuUsage(users, systems, per_cpu)

    def _sampled(self) -> dict[int, tuple[int, int]] | None:
        text = self._all.read()
        if text is not None:
            return cpuacct.parse_usage_all(text)
        user = self._user.read()
        system = self._system.read()
        if user is None or system is None:
            return None
        times = zip(
            cpuacct.parse_usage_percpu(user), cpuacct.parse_usage_percpu(system), strict=False
        )
        return dict(enumerate(times))


class PidsReader:
    """pids.max and pids.current, which v1 and v2 have alike."""

    def __init__(self, place: Place, hierarchies: Hierarchies) -> None:
        own = place.nearest("pids.current") or place.own
        self._limit = smallest(hierarchies, place, "pids.max", cgroupvalue.limit)
        self._current = KeptFile(own, "pids.current")
        self._above = Above(hierarchies, place, own, "pids.max", "pids.current", None)
        self._origin = place.origin(own, "pids.current")
        self._own_limit = place.origin(own, "pids.max")

    def read(self) -> Pids | None:
        text = self._current.read()
        if text is None:
            return None
        found = self._limit.get()
        return Pids(
            threads=cgroupvalue.number(text),
            origin=self._origin,
            limit=value_of(found),
            limit_origin=origin_of(found) or self._own_limit,
            left=self._above.left() if found is not None else None,
        )


class Pids(NamedTuple):
    """Threads of a cgroup."""

    threads: int
    origin: Origin
    limit: int | None
    limit_origin: Origin
    #: The least that a level above leaves; None if none has a limit.
    left: Found[int] | None


class HugePages(NamedTuple):
    """Pages of one size, in bytes."""

    usage: int
    origin: Origin
    limit: int | None
    limit_origin: Origin


class HugetlbReader:
    """hugetlb.SIZE.*: limit and usage of one size of huge pages ("2MB")."""

    LIMIT, USAGE = "limit_in_bytes", "usage_in_bytes"

    def __init__(self, place: Place, hierarchies: Hierarchies, size: str) -> None:
        limit, usage = (sys.intern(f"hugetlb.{size}.{one}") for one in (self.LIMIT, self.USAGE))
        own = place.nearest(usage) or place.own
        self._limit = smallest(hierarchies, place, limit, cgroupvalue.limit)
        self._usage = KeptFile(own, usage)
        self._origin, self._own_limit = place.origin(own, usage), place.origin(own, limit)

    def read(self) -> HugePages | None:
        text = self._usage.read()
        if text is None:
            return None
        found = self._limit.get()
        return HugePages(
            usage=cgroupvalue.number(text),
            origin=self._origin,
            limit=value_of(found),
            limit_origin=origin_of(found) or self._own_limit,
        )


#: v1's limits of one disk, in bytes and in requests a second.
_RULES = ("read_bps", "write_bps", "read_iops", "write_iops")


class BlockIOReader:
    """blkio.*, of which kernel and I/O scheduler decide the set of files.

    All requests pass the throttle layer. The schedulers (CFQ until Linux 5.0, BFQ) count only
    requests to disks that use them, but have merges and times.

    Since Linux 6.1 at the latest the throttle layer counts nothing until a disk has its first rule
    (blk_should_throtl, block/blk-throttle.h). Zeros that nobody has counted are no value.
    """

    def __init__(self, place: Place, hierarchies: Hierarchies) -> None:
        def kept(prefix: str, name: str) -> KeptFile:
            return KeptFile(place.own, sys.intern(f"blkio.{prefix}{name}_recursive"))

        schedulers = ("bfq.", "")
        self._bytes = [kept(prefix, "io_service_bytes") for prefix in ("throttle.", *schedulers)]
        self._requests = [kept(prefix, "io_serviced") for prefix in ("throttle.", *schedulers)]
        self._merged = [kept(prefix, "io_merged") for prefix in schedulers]
        self._service = [kept(prefix, "io_service_time") for prefix in schedulers]
        self._wait = [kept(prefix, "io_wait_time") for prefix in schedulers]
        shared = hierarchies.shared
        #: What the widest cgroup that is mounted has counted: with it, all in it are counted.
        self._counted = [
            shared(f"{place.directories[-1]}/blkio.{prefix}io_serviced_recursive")
            for prefix in ("throttle.", *schedulers)
        ]
        rules = [
            shared(f"{directory}/blkio.throttle.{rule}_device")
            for directory in place.limiting
            for rule in _RULES
        ]
        self._has_rules = hierarchies.setting(rules, partial(_any_text, rules))

    def read(self) -> Mapping[tuple[int, int], BlockIO] | None:
        amounts = _by_device(self._bytes)
        requests = _by_device(self._requests)
        if amounts is None or requests is None:
            return None
        if not _has_any(amounts) and not _has_any(requests):
            return {} if self._is_counting() else None
        merged = _by_device(self._merged) or {}
        service = _by_device(self._service) or {}
        wait = _by_device(self._wait) or {}
        nothing: dict[bytes, int] = {}
        devices: dict[tuple[int, int], BlockIO] = {}
        for device in sorted(amounts.keys() | requests.keys()):
            size = amounts.get(device, nothing)
            count = requests.get(device, nothing)
            merges = merged.get(device, nothing)
            busy = service.get(device, nothing)
            waiting = wait.get(device, nothing)
            devices[device] = BlockIO(
                read_bytes=size.get(b"Read", 0),
                write_bytes=size.get(b"Write", 0),
                discard_bytes=size.get(b"Discard", 0),
                reads=count.get(b"Read", 0),
                writes=count.get(b"Write", 0),
                discards=count.get(b"Discard", 0),
                reads_merged=merges.get(b"Read", 0),
                writes_merged=merges.get(b"Write", 0),
                read_ns=busy.get(b"Read", 0) + waiting.get(b"Read", 0),
                write_ns=busy.get(b"Write", 0) + waiting.get(b"Write", 0),
                busy_ns=busy.get(b"Total", 0),
            )
        return devices

    def _is_counting(self) -> bool:
        return _has_any(_by_device(self._counted)) or self._has_rules.get()


def _any_text(files: Sequence[KeptFile]) -> bool:
    return any(file.read() for file in files)


def _has_any(devices: Mapping[tuple[int, int], Mapping[bytes, int]] | None) -> bool:
    return any(any(numbers.values()) for numbers in (devices or {}).values())


def _by_device(files: list[KeptFile]) -> dict[tuple[int, int], dict[bytes, int]] | None:
    """Return each device's numbers, from the first file with any."""
    devices: dict[tuple[int, int], dict[bytes, int]] | None = None
    for file in files:
        text = file.read()
        if text is None:
            continue
        if devices is None:
            devices = {}
        if text == b"Total 0\n":
            continue
        for device, numbers in blkio.parse(text).items():
            if not any(devices.get(device, {}).values()):
                devices[device] = numbers
    return devices
