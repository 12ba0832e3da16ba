"""What a view may know of the host and of the container.

The values, and the Protocols Host and Container. Sizes are bytes and times nanoseconds; `None`
always means "no limit" or "not known", as stated at each field. sources/ implements the Protocols;
views/ only reads them. This module does no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol


class CpuView(Enum):
    """Which CPUs a container with a CFS quota sees."""

    QUOTA = "quota"
    CPUSET = "cpuset"


class CpuNumbering(Enum):
    """Numbers of visible CPUs: the kernel's, or 0..N-1 as in LXCFS."""

    PHYSICAL = "physical"
    PACKED = "packed"


class SysCpu(Enum):
    """Whether cpuN directories outside the view are shown (offline) or hidden."""

    OFFLINE = "offline"
    HIDE = "hide"


@dataclass(frozen=True, slots=True)
class Options:
    """The policy options of views. They do not change during a rendering."""

    cpu_view: CpuView = CpuView.QUOTA
    cpu_numbering: CpuNumbering = CpuNumbering.PHYSICAL
    sys_cpu: SysCpu = SysCpu.OFFLINE
    swap: bool = True
    zswap: bool = True
    loadavg: bool = True
    vmstat: bool = False


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a cgroup, in bytes.

    Limits are the minimum over the cgroup and its ancestors. `stat` is memory.stat of the whole
    subtree under v2's names (sources/ translates v1's total_*), with the keys that the kernel has.
    Values that v2 counts in events (pgfault, pgscan, ...) are events.
    """

    limit: int | None
    usage: int
    #: Limit of swap. v1: memsw limit minus memory limit. None: no limit.
    swap_limit: int | None
    #: None: swap is not accounted on this host.
    swap_usage: int | None
    #: v1's memory.swappiness; None on v2, which has no such file.
    swappiness: int | None
    stat: Mapping[bytes, int]
    #: The least of limit minus usage over the ancestors that have a limit, negative after a limit
    #: was lowered below usage. None: no ancestor has a limit.
    left: int | None = None
    #: The same of swap.
    swap_left: int | None = None


@dataclass(frozen=True, slots=True)
class CpuLimit:
    """Effective cpuset, and the smallest quota over all ancestors."""

    #: None: no cpuset controller, so every online CPU.
    cpuset: frozenset[int] | None
    #: In CPUs (quota / period). None: no quota.
    quota: float | None


@dataclass(frozen=True, slots=True)
class CpuUsage:
    """CPU time of a cgroup's subtree since its creation, in nanoseconds."""

    user_ns: int
    system_ns: int
    #: By CPU number: (user_ns, system_ns). v1: cpuacct.usage_percpu, divided into user and system
    #: as in usage_all; None on v2.
    per_cpu: Mapping[int, tuple[int, int]] | None
    #: v2's cpu.stat nice_usec, a part of user_ns (Linux 6.13+).
    nice_ns: int = 0


@dataclass(frozen=True, slots=True)
class BlockIO:
    """I/O of a cgroup on one block device: bytes, requests, nanoseconds."""

    read_bytes: int = 0
    write_bytes: int = 0
    discard_bytes: int = 0
    reads: int = 0
    writes: int = 0
    discards: int = 0
    reads_merged: int = 0
    writes_merged: int = 0
    #: Service plus wait time where v1 counts it, else 0.
    read_ns: int = 0
    write_ns: int = 0
    #: v1's io_service_time total, else 0.
    busy_ns: int = 0


class Device(NamedTuple):
    """A device node by its numbers."""

    #: A block device; else a character device.
    is_block: bool
    major: int
    minor: int


@dataclass(frozen=True, slots=True)
class Load:
    """Load averages over 1, 5 and 15 minutes, and thread counts."""

    averages: tuple[float, float, float]
    running: int
    total: int
    last_pid: int


@dataclass(slots=True)
class Ledger:
    """State that keeps a container's counters from running backwards.

    `cpu_ns` maps a CPU number to the (user, nice, system, idle) nanoseconds shown last, also of a
    CPU that has left the view; `last_ns` is the CLOCK_BOOTTIME of that reading, and `awake_ns` its
    CLOCK_MONOTONIC, which stands still while the host is suspended. Only views/cputime.py reads and
    writes the values; the server saves them across restarts.
    """

    cpu_ns: dict[int, tuple[int, int, int, int]] = field(default_factory=dict)
    last_ns: int = 0
    awake_ns: int = 0
    #: The values are those of an earlier server, which may have shown later ones before it ended.
    inherited: bool = field(default=False, compare=False)
    #: A CPU has left the view since the values were saved: no other place has its times.
    unsaved: bool = field(default=False, compare=False)


class Host(Protocol):
    """The machine."""

    def read(self, path: str) -> bytes:
        """Return a whole host file.

        `path` is relative to the root ("proc/meminfo"). Raise SourceError if it cannot be read.
        """
        ...

    def recent(self, path: str) -> bytes:
        """Return a host file, or a recent reading of it.

        For the host's part of files that many containers read. The age of a reading is bounded by
        the implementation. Raise SourceError as `read` does.
        """
        ...

    def list(self, path: str) -> list[str]:
        """Return the names in a host directory, in no order.

        `path` is relative to the root. Raise SourceError if it cannot be read.
        """
        ...

    def readlink(self, path: str) -> str:
        """Return where a host's symbolic link leads, relative to its directory.

        `path` is relative to the root. Raise SourceError if it is none.
        """
        ...

    def now_ns(self) -> int:
        """Return CLOCK_BOOTTIME."""
        ...

    def awake_ns(self) -> int:
        """Return CLOCK_MONOTONIC, which does not count suspend."""
        ...

    def online_cpus(self) -> tuple[int, ...]:
        """Return the numbers of the online CPUs, ascending."""
        ...


class Container(Protocol):
    """A container, as the cgroup and namespace of init show it.

    Every call reads the kernel, except started_ns() and load(). A method returns None where its
    controller is absent, and raises SourceError (Gone once the cgroup is deleted) where a file
    cannot be read.
    """

    ledger: Ledger
    #: How often a file was rendered for it; tree/contents.py counts.
    renderings: int

    def memory(self) -> Memory | None:
        """Return limits and usage of memory and swap."""
        ...

    def cpu_limit(self) -> CpuLimit:
        """Return the cpuset and the quota."""
        ...

    def cpu_usage(self) -> CpuUsage | None:
        """Return the CPU time."""
        ...

    def block_io(self) -> Mapping[tuple[int, int], BlockIO] | None:
        """Return the I/O by (major, minor)."""
        ...

    def pressure(self, resource: str) -> bytes | None:
        """Return the text of v2's RESOURCE.pressure (cpu, memory, io, irq)."""
        ...

    def slabinfo(self) -> bytes | None:
        """Return v1's memory.kmem.slabinfo."""
        ...

    def mems(self) -> frozenset[int] | None:
        """Return the NUMA nodes of the cpuset; None: all."""
        ...

    def may_open(self, devices: Iterable[Device]) -> frozenset[Device] | None:
        """Return those of some devices that it may open, to read or to write; None: all."""
        ...

    def started_ns(self) -> int:
        """Return the CLOCK_BOOTTIME at which init started."""
        ...

    def clock_offset_ns(self) -> int:
        """Return by how much its time namespace's CLOCK_BOOTTIME is ahead of the host's."""
        ...

    def load(self) -> Load | None:
        """Return the last sample of the load, or an estimate.

        The estimate, before the first sample, has averages of 0 (or those of the server before),
        one running thread, and the number of threads in pids.current. None where load averages
        are off, or the cgroup is the root.
        """
        ...
