"""From a process to its resources: sources and views put together, without a mount.

    pid namespace of the process        its resources
    another one than this process's     those of its container (sources/registry.py)
    the same, or one may not see it     those of its own cgroup; the host's if nothing is known to
                                        limit that

The values that files of pylxcfs show as well are made by the same views. The descriptors of what
was asked before stay open, so a second question costs a few reads.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache
from resource import RLIMIT_NOFILE, getrlimit
from typing import Final, NamedTuple, TypeVar

from pylxcfs.errors import FormatError, Gone, PylxcfsError, SourceError
from pylxcfs.formats import loadavg as loadavg_format
from pylxcfs.formats import meminfo as meminfo_format
from pylxcfs.formats import pressure as pressure_format
from pylxcfs.formats import uevent
from pylxcfs.formats.meminfo import MemInfo
from pylxcfs.formats.pressure import Stall
from pylxcfs.resources.model import (
    Cgroup,
    Cpu,
    Device,
    Devices,
    HugePages,
    Load,
    Memory,
    Processes,
    Resources,
    Security,
    Source,
    Swap,
    size_name,
)
from pylxcfs.sources.cgroups import Hierarchies, Origin, Paths
from pylxcfs.sources.containers import ContainerSource, start_ticks_of
from pylxcfs.sources.hostcallers import HostCallers, limits_cpus, limits_memory
from pylxcfs.sources.identity import cgroupns_of, pidns_of
from pylxcfs.sources.initpid import InitFinder
from pylxcfs.sources.kept import Descriptor, PinnedFile, read_whole
from pylxcfs.sources.loadavg import Sampler
from pylxcfs.sources.procfs import HostFiles
from pylxcfs.sources.readers import Readers
from pylxcfs.sources.registry import Registry
from pylxcfs.sources.v1 import Found, Pids
from pylxcfs.sources.v1 import HugePages as HugePagesFound
from pylxcfs.units import KIB, NS_PER_S, NS_PER_TICK
from pylxcfs.views import cpus, numa
from pylxcfs.views import devices as devices_view
from pylxcfs.views.memory import Amounts, amounts, number
from pylxcfs.views.model import CpuLimit, Options
from pylxcfs.views.model import Memory as CgroupMemory

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: Greatest age of the machine's own memory, pressure and load. Those of cgroups are always read.
_RECENT_NS: Final = NS_PER_S // 20
#: Seconds for which the machine's NUMA nodes are believed; they seldom change.
_NODES_S: Final = 1.0
#: PROC_PID_INIT_INO (include/linux/proc_ns.h): the machine's first pid namespace.
_FIRST_PIDNS: Final = 0xEFFFFFFC
_PRESSURE: Final = ("cpu", "memory", "io", "irq")
_HUGE_PAGES: Final = "sys/kernel/mm/hugepages"
_HUGE_PREFIX: Final = "hugepages-"
_HUGE_SUFFIX: Final = "kB"
_LIST: Final = "devices.list"
_MODULES: Final = "sys/kernel/security/lsm"
_READ: Final = os.O_RDONLY | os.O_CLOEXEC
_MOST_LABEL: Final = 4096
#: Modules that label processes.
_LABELS: Final = frozenset({"apparmor", "selinux", "smack"})
#: cpu.shares of one CPU, and the kernel's defaults (kernel/sched/sched.h).
_SHARES_OF_ONE: Final = 1024
_DEFAULT_WEIGHT: Final = 100
#: Origins that are no value's alone.
_PARTS: Final = frozenset({"memory.left", "swap.left", "memory.stat"})
#: Levels of cgroups whose files stay open for the next question. Of deeper cgroups only the one
#: that was asked about last has its files open, so that nobody uses up this process's descriptors
#: by nesting cgroups.
LEVELS_KEPT: Final = 32
#: Descriptors that a container may keep open: 20, and 9 for each level of its cgroups up to those
#: that stay open, if all of them have limits.
FDS_EACH: Final = 20 + 9 * LEVELS_KEPT
_MOST_CONTAINERS: Final = 512

_MEMINFO: Final = Source("/proc/meminfo")
_NO_SWAP: Final = Source("swap is not counted, or not shown by option")
_SWAPPINESS: Final = Source("memory.swappiness", 0)
_ONLINE: Final = Source("/sys/devices/system/cpu/online")
_NODES: Final = Source("/sys/devices/system/node/online")
_LOADAVG: Final = Source("/proc/loadavg")
_SAMPLED: Final = Source("threads of the cgroup, every 5 s")
_AFFINITY: Final = Source("sched_getaffinity(2)")
_PIDCGROUP: Final = Source("/proc/PID/cgroup")
_INIT_STAT: Final = Source("/proc/PID/stat of init")
_OWN_INIT_STAT: Final = Source("/proc/1/stat")
_UPTIME: Final = Source("/proc/uptime")
_LSM: Final = Source(f"/{_MODULES}")
_LABEL: Final = Source("/proc/PID/attr/current")
#: By resource: its name in `sources`, the host's file, and where its values come from.
_STALLS: Final = {
    resource: (
        f"pressure.{resource}",
        f"proc/pressure/{resource}",
        Source(f"{resource}.pressure", 0),
        Source(f"/proc/pressure/{resource}"),
    )
    for resource in _PRESSURE
}


class _Host(HostFiles):
    """The machine's files; the lists of its NUMA nodes are read once a second."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._nodes: dict[str, tuple[bytes, float]] = {}

    def read(self, path: str) -> bytes:
        if not path.startswith(numa.TREE):
            return super().read(path)
        text, until = self._nodes.get(path, (b"", 0.0))
        now = time.monotonic()
        if now >= until:
            text = super().read(path)
            self._nodes[path] = text, now + _NODES_S
        return text


class _Cgroup(NamedTuple):
    """What is read of a cgroup."""

    limit: CpuLimit
    memory: CgroupMemory | None
    weight: Found[int] | None
    pids: Pids | None
    #: Text of the pressure files that it has, by resource.
    pressure: Mapping[str, bytes]
    #: By size in bytes and its name.
    huge_pages: Mapping[tuple[int, str], HugePagesFound]
    origins: Mapping[str, Origin]


class Query:
    """Answers for any process that this one may see; for one thread at a time, but for `find`.

    `options`: those of the files that answers agree with. `sample`: count load averages of
    containers, from the second question on; they are not known without it. `max_containers`: the
    most that keep files open, and as many cgroups of this pid namespace up to 16; fewer where both
    together could take more than half of the descriptors that this process may have now.
    """

    def __init__(
        self,
        options: Options | None = None,
        *,
        root: str = "/",
        init_pid_method: str = "auto",
        max_containers: int = _MOST_CONTAINERS,
        sample: bool = False,
    ) -> None:
        self.options = options or Options()
        self.hierarchies = Hierarchies.discover(root)
        self.host = _Host(root)
        self.host.recent_ns = _RECENT_NS
        self.finder = InitFinder(init_pid_method)
        self.sampler = Sampler(self.hierarchies) if sample else None
        soft, _ = getrlimit(RLIMIT_NOFILE)
        fit = max(1, soft // 2 // FDS_EACH)
        self._max_containers = min(max_containers, fit)
        self._proc = f"{root.rstrip('/')}/proc"
        self._pid = os.getpid()
        self._pidns = pidns_of(self._pid)
        self._cgroupns = cgroupns_of(self._pid)
        self._own = PinnedFile(f"{self._proc}/self/cgroup")
        self._cgroups = HostCallers(self.hierarchies, self.host, fit)
        self._registry: Registry | None = None
        self._started_ns: int | None = None
        self._modules: tuple[str, ...] | None = None
        self._labels: bool | None = None
        #: What was parsed of a text.
        self._stalls: dict[str, tuple[bytes, Mapping[str, Stall]]] = {}
        self._uncounted: set[str] = set()
        self._deep: weakref.ref[ContainerSource] | None = None

    @property
    def registry(self) -> Registry:
        """The containers that were asked for."""
        if self._registry is None:
            self._registry = Registry(
                self.hierarchies,
                self.host,
                self.finder,
                self._max_containers,
                want_load=self.sampler.want if self.sampler is not None else None,
            )
        return self._registry

    def of(self, pid: int | None = None) -> Resources:
        """Return the resources of a process, by default of this one.

        Raise Gone if it has ended, SourceError or FormatError where the kernel's files cannot be
        read or parsed.
        """
        pid = pid or os.getpid()
        writes = self.hierarchies.writes
        writes.look()
        writes.held = True
        try:
            return self._where_it_is(pid, lambda *found: self._resources(pid, *found))
        finally:
            writes.held = False

    def devices(self, pid: int | None = None) -> Devices:
        """Return the devices that a process, by default this one, may open.

        That is for its cgroup to say; nothing is opened. On v2 this process needs bpf(2), else they
        are not known. Raise Gone if it has ended, SourceError where its cgroup cannot be found.
        """
        found = self._where_it_is(pid or os.getpid(), lambda found, _: self._devices(found))
        if found.unknown is not None:
            _log.debug("devices: %s", found.unknown)
        return found

    def huge_page_sizes(self) -> list[str]:
        """Return the sizes of huge pages that the kernel has, as cgroups name them."""
        return [name for _, name in self._huge_page_sizes]

    @cached_property
    def _huge_page_sizes(self) -> list[tuple[int, str]]:
        return _sizes_of_huge_pages(self.host)

    def _where_it_is(self, pid: int, ask: Callable[[ContainerSource, bool], _T]) -> _T:
        """Return what `ask` says of the cgroups of a process."""
        try:
            return self._once(pid, ask)
        except Gone:
            if not os.path.exists(f"{self._proc}/{pid}"):
                raise
            # Its cgroup was removed behind it, or it was moved: once more, from where it is now.
            return self._once(pid, ask)

    def _once(self, pid: int, ask: Callable[[ContainerSource, bool], _T]) -> _T:
        container, is_container = self.find(pid)
        found = ask(container, is_container)
        if max([path.count("/") for path in container.paths().values()], default=0) > LEVELS_KEPT:
            last = self._deep() if self._deep is not None else None
            if last is not None and last is not container:
                last.release()
            self._deep = weakref.ref(container)
        return found

    def find(self, pid: int) -> tuple[ContainerSource, bool]:
        """Return the cgroups of a process, and whether they are another container's.

        For any thread, also while another one asks: what it keeps is in tables with locks
        (sources/registry.py, sources/hostcallers.py). It may take long where a pid namespace was
        not asked about before. Raise Gone, SourceError.
        """
        if pid == self._pid:
            return self._cgroups.of_cgroups(self._own.read()), False
        pidns = pidns_of(pid, self._proc)
        if pidns not in (0, self._pidns):
            identity = self.registry.identify(pid)
            found = self.registry.get(identity, pid) if identity is not None else None
            if found is not None:
                return found, True
        text = self.hierarchies.living(pid, read_whole(f"{self._proc}/{pid}/cgroup"))
        return self._cgroups.of_cgroups(text), False

    def close(self) -> None:
        """Close what was opened, and end what works in the background."""
        if self.sampler is not None:
            self.sampler.close()
        if self._registry is not None:
            self._registry.close()
        self._cgroups.close()
        self.finder.close()
        self.host.close()

    def _resources(self, pid: int, container: ContainerSource, is_container: bool) -> Resources:
        host = self.host
        sources: dict[str, Source] = {}
        cgroup = container.read(self._read)
        limit, memory = cgroup.limit, cgroup.memory
        online = host.online_cpus()
        limits = limits_cpus(limit, online) or limits_memory(memory)
        limited = is_container or limits
        paths = container.paths()
        scope = "container" if limited else "host"
        if not limits and not self._can_see_limits(paths):
            scope = "unknown"
        origins = {name: _source(origin) for name, origin in cgroup.origins.items()}
        sources.update({name: one for name, one in origins.items() if name not in _PARTS})
        info = meminfo_format.read(host.recent("proc/meminfo"))
        if limited and memory is not None:
            found = amounts(info, memory, self.options)
        else:
            found = _of_host(info)
        shown = memory if limited else None
        sources.update(_sources_of(found, shown, info, origins, self.options))
        processes = self._processes(cgroup.pids, sources)
        return Resources(
            scope=scope,
            cpu=self._cpu(cgroup, online, pid, sources, limited=limited),
            memory=Memory(
                memory.limit if memory is not None else None,
                found.total,
                memory.usage if memory is not None else None,
                found.free,
                found.available,
            ),
            swap=_swap(memory, found),
            processes=processes,
            pressure=self._pressure(cgroup.pressure if limited else {}, sources),
            # What is no other container is not sampled: its file is the host's.
            load=self._load(container if is_container else None, paths, processes, sources),
            uptime_s=self._uptime(container if is_container else None, sources),
            numa_nodes=self._nodes_of(container if limited else None, sources),
            huge_pages=self._huge_pages(cgroup.huge_pages, sources),
            cgroup=self._cgroup(paths, pid, sources),
            security=self._security(pid, sources),
            sources=sources,
        )

    def _can_see_limits(self, paths: Paths) -> bool:
        """Return whether the hierarchies of CPUs and memory are mounted, with these cgroups."""
        for name in ("cpu", "memory"):
            if name in paths:
                place = self.hierarchies.named(name, paths)
            elif "" in paths:  # what no v1 hierarchy has is v2's
                place = self.hierarchies.in_v2(paths)
            else:
                continue  # the kernel has no such controller
            if place is None:
                return False
        return True

    def _devices(self, container: ContainerSource) -> Devices:
        try:
            every = devices_view.numbered(self.host)
        except SourceError as error:
            return Devices(None, (), str(error))  # no sysfs is mounted
        try:
            allowed, origins = container.read(
                lambda readers: (readers.may_open(every), readers.device_origins())
            )
        except Gone:
            raise
        except (SourceError, FormatError) as error:
            return Devices(None, (), str(error))
        if not origins or (_LIST not in origins and "devices" in container.paths()):
            return Devices(None, (), "the hierarchy with the rules for them is not mounted here")
        sources = tuple(
            [Source(name, origin.level, origin.path) for name, origin in origins.items()]
        )
        if allowed is None:
            return Devices(None, sources)
        found = [
            Device(
                "block" if one.is_block else "char",
                one.major,
                one.minor,
                self._name_of(every[one]),
            )
            for one in sorted(allowed)
        ]
        return Devices(tuple(found), sources)

    def _name_of(self, device: str) -> str:
        """Return the name of a device by its directory in sysfs."""
        name: str | None = None
        with contextlib.suppress(SourceError):  # it was unplugged
            name = uevent.devname(self.host.read(f"{device}/uevent"))
        return name or os.path.basename(device)

    def _read(self, readers: Readers) -> _Cgroup:
        """Read a cgroup's files."""
        limit, memory = readers.cpu_limit(), readers.memory()
        texts = {name: text for name in _PRESSURE if (text := readers.pressure(name))}
        pages = {
            (size, name): found
            for size, name in self._huge_page_sizes
            if (found := readers.huge_pages(name)) is not None
        }
        weight, pids = readers.cpu_weight(), readers.pids()
        return _Cgroup(limit, memory, weight, pids, texts, pages, readers.origins())

    def _cpu(
        self,
        cgroup: _Cgroup,
        online: tuple[int, ...],
        pid: int,
        sources: dict[str, Source],
        *,
        limited: bool,
    ) -> Cpu:
        limit = cgroup.limit
        visible = online
        sources["cpu.visible"] = _ONLINE
        if limited:
            visible = cpus.within(online, limit, self.options)
            in_cpuset = cpus.within(online, CpuLimit(limit.cpuset, None), self.options)
            if visible != in_cpuset:
                sources["cpu.visible"] = sources["cpu.quota"]
            elif visible != online:
                sources["cpu.visible"] = sources["cpu.cpuset"]
            visible = cpus.shown(visible, self.options)
        shares = weight = None
        requested: float | None = None
        found = cgroup.weight
        if found is not None:
            source = _source(found.origin)
            if source.file == "cpu.shares":
                shares = found.value
                requested = None if shares == _SHARES_OF_ONE else shares / _SHARES_OF_ONE
                sources["cpu.shares"] = sources["cpu.requested"] = source
            else:
                weight = found.value
                requested = None if weight == _DEFAULT_WEIGHT else _shares_of(weight)
                sources["cpu.weight"] = sources["cpu.requested"] = source
        affinity: tuple[int, ...] | None = None
        with contextlib.suppress(OSError):
            affinity = tuple(sorted(os.sched_getaffinity(pid)))
            sources["cpu.affinity"] = _AFFINITY
        cpuset = None if limit.cpuset is None else tuple(sorted(limit.cpuset))
        return Cpu(visible, limit.quota, cpuset, affinity, shares, weight, requested)

    def _processes(self, found: Pids | None, sources: dict[str, Source]) -> Processes:
        if found is None:
            return Processes(None, None, None)
        sources["processes.limit"] = sources["processes.left"] = _source(found.limit_origin)
        sources["processes.threads"] = _source(found.origin)
        if found.limit is None:
            return Processes(None, found.threads, None)
        left, origin = found.limit - found.threads, found.origin
        if found.left is not None and found.left.value < left:
            left, origin = found.left
        sources["processes.left"] = _source(origin)
        return Processes(found.limit, found.threads, max(0, left))

    def _pressure(
        self, texts: Mapping[str, bytes], sources: dict[str, Source]
    ) -> dict[str, Mapping[str, Stall]]:
        stalls: dict[str, Mapping[str, Stall]] = {}
        for resource, (name, path, source, hosts) in _STALLS.items():
            text = texts.get(resource)
            if text is not None:
                sources[name] = source
            elif resource in self._uncounted:
                continue
            else:
                try:
                    text = self.host.recent(path)
                except Gone:  # the kernel has no PSI, or counts no stalls of this
                    self._uncounted.add(resource)
                    continue
                except SourceError:  # it was booted with psi=0
                    continue
                sources[name] = hosts
            known = self._stalls.get(resource)
            if known is None or known[0] != text:
                found = pressure_format.parse(text)
                known = text, {kind.decode(): stall for kind, stall in found.items()}
                self._stalls[resource] = known
            stalls[resource] = known[1]
        return stalls

    def _load(
        self,
        container: ContainerSource | None,
        paths: Paths,
        processes: Processes,
        sources: dict[str, Source],
    ) -> Load:
        # Of a container that nothing can count the file is the host's.
        if (
            container is not None
            and self.options.loadavg
            and self.hierarchies.thread_place(paths) is not None
        ):
            container.renderings += 1
            # A client that asks once, at its start, is not worth counting threads for ever.
            load = container.load() if container.renderings > 1 else None
            if load is None:
                if "processes.threads" in sources:
                    sources["load.total"] = sources["processes.threads"]
                return Load(None, None, processes.threads)
            sources["load"] = _SAMPLED
            running = max(1, load.running)
            return Load(load.averages, running, max(running, load.total))
        sources["load"] = _LOADAVG
        host = _loadavg(self.host.recent("proc/loadavg"))
        return Load(host.averages, host.running, host.total)

    def _uptime(self, container: ContainerSource | None, sources: dict[str, Source]) -> float:
        if container is not None:
            started_ns = container.started_ns()
            sources["uptime_s"] = _INIT_STAT
        else:
            if self._started_ns is None:
                self._started_ns = 0
                if self._pidns != _FIRST_PIDNS:
                    with contextlib.suppress(PylxcfsError):
                        self._started_ns = start_ticks_of(self.host.root, 1) * NS_PER_TICK
            started_ns = self._started_ns
            sources["uptime_s"] = _OWN_INIT_STAT if started_ns else _UPTIME
        # As /proc/uptime prints it: hundredths of seconds, rounded down.
        return max(0, self.host.now_ns() - started_ns) * 100 // NS_PER_S / 100

    def _nodes_of(
        self, container: ContainerSource | None, sources: dict[str, Source]
    ) -> tuple[int, ...]:
        sources.setdefault("numa_nodes", _NODES)
        try:
            if container is None:
                sources["numa_nodes"] = _NODES
                return numa.numbers(self.host, "online")
            return numa.visible(self.host, container)
        except SourceError:
            return ()  # a kernel without NUMA

    def _huge_pages(
        self, counted: Mapping[tuple[int, str], HugePagesFound], sources: dict[str, Source]
    ) -> tuple[HugePages, ...]:
        for (_, name), found in counted.items():
            sources[f"huge_pages.{name}.limit_bytes"] = _source(found.limit_origin)
            sources[f"huge_pages.{name}.usage_bytes"] = _source(found.origin)
        return tuple(
            [HugePages(size, found.limit, found.usage) for (size, _), found in counted.items()]
        )

    def _cgroup(self, paths: Paths, pid: int, sources: dict[str, Source]) -> Cgroup:
        sources["cgroup.version"] = sources["cgroup.paths"] = _PIDCGROUP
        # A container is the root of its cgroup namespace.
        is_root = pid != self._pid and cgroupns_of(pid, self._proc) not in (0, self._cgroupns)
        return _cgroup_of(paths, is_root=is_root)

    def _security(self, pid: int, sources: dict[str, Source]) -> Security:
        if self._labels is None:
            text = self.host.read_optional(_MODULES)
            if text is not None:
                self._modules = tuple(text.decode().strip().split(","))
            self._labels = self._modules is None or not _LABELS.isdisjoint(self._modules)
        if self._modules is not None:
            sources["security.modules"] = _LSM
        label: str | None = None
        if self._labels:
            try:
                file = Descriptor(os.open(f"{self._proc}/{pid}/attr/current", _READ))
                text = os.read(file.number, _MOST_LABEL)
                label = text.rstrip(b"\0\n").decode(errors="replace") or None
                sources["security.label"] = _LABEL
            except OSError as error:
                # No module of this kernel labels processes (proc_pid_attr_read).
                self._labels = error.errno != errno.EINVAL
        return Security(self._modules, label)


_loadavg: Final = lru_cache(maxsize=1)(loadavg_format.parse)


@lru_cache(maxsize=1024)  # an answer has a dozen
def _source(origin: Origin) -> Source:
    return Source(origin.path.rpartition("/")[2], origin.level, origin.path)


def _sources_of(
    found: Amounts,
    memory: CgroupMemory | None,
    info: MemInfo,
    origins: Mapping[str, Source],
    options: Options,
) -> dict[str, Source]:
    """Return the files that decide about amounts (views/memory.py). `memory`: None for a host."""
    total = free = available = swap_total = swap_free = _MEMINFO
    if memory is not None:
        if memory.limit == found.total:
            total = origins["memory.limit_bytes"]
        above = memory.left is not None and memory.left < found.total - memory.usage
        free = origins["memory.left" if above else "memory.usage_bytes"]
        if found.available != info.number(b"MemAvailable"):
            available = origins["memory.stat"]
    if memory is not None and number(info, b"SwapTotal"):
        if memory.swap_usage is None or not options.swap:
            swap_total = swap_free = _NO_SWAP
        elif memory.swappiness == 0:
            swap_total = swap_free = _SWAPPINESS
        else:
            if memory.swap_limit == found.swap_total:
                swap_total = origins["swap.limit_bytes"]
            left = found.swap_total - memory.swap_usage
            above = memory.swap_left is not None and memory.swap_left < left
            swap_free = origins["swap.left" if above else "swap.usage_bytes"]
    return {
        "memory.total_bytes": total,
        "memory.free_bytes": free,
        "memory.available_bytes": available,
        "swap.total_bytes": swap_total,
        "swap.free_bytes": swap_free,
    }


def _of_host(info: MemInfo) -> Amounts:
    available = info.number(b"MemAvailable")  # since Linux 3.14
    free = number(info, b"MemFree")
    return Amounts(
        number(info, b"MemTotal"),
        free,
        free if available is None else available,
        number(info, b"SwapTotal"),
        number(info, b"SwapFree"),
    )


def _cgroup_of(paths: Paths, *, is_root: bool) -> Cgroup:
    version = "v1" if "" not in paths else "hybrid" if len(paths) > 1 else "v2"
    shown = {name or "unified": "/" if is_root else path for name, path in paths.items()}
    return Cgroup(version, shown)


def _swap(memory: CgroupMemory | None, found: Amounts) -> Swap:
    if memory is None:
        return Swap(None, found.swap_total, None, found.swap_free)
    return Swap(memory.swap_limit, found.swap_total, memory.swap_usage, found.swap_free)


def _shares_of(weight: int) -> float:
    """Return the CPUs for which runtimes write a weight: the OCI's conversion of cpu.shares."""
    return round((2 + (weight - 1) * 262142 / 9999) / _SHARES_OF_ONE, 3)


def _sizes_of_huge_pages(host: HostFiles) -> list[tuple[int, str]]:
    """Return the sizes that the kernel has, in bytes and as cgroups name them."""
    try:
        names = host.list(_HUGE_PAGES)
    except SourceError:
        return []
    digits = [name.removeprefix(_HUGE_PREFIX).removesuffix(_HUGE_SUFFIX) for name in names]
    sizes = sorted([int(one) * KIB for one in digits if one.isdecimal()])
    return [(size, size_name(size)) for size in sizes]


_lock = threading.Lock()
_default: Query | None = None


def _forget() -> None:
    """After fork(2): the parent reads the events of the inotify instance that both have."""
    global _default, _lock
    _default, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)


def of(pid: int | None = None) -> Resources:
    """Return the resources of a process, by default of this one; for any thread.

    Raise Gone if it has ended, SourceError or FormatError where the kernel's files cannot be read
    or parsed.
    """
    with _lock:
        return _own().of(pid)


def devices(pid: int | None = None) -> Devices:
    """Return the devices that a process, by default this one, may open; for any thread.

    Raise Gone if it has ended, SourceError where its cgroup cannot be found.
    """
    with _lock:
        return _own().devices(pid)


def _own() -> Query:
    global _default
    if _default is None:
        _default = Query()
    return _default
