"""What a view may know of the host and of the container: the values and two Protocols.

Everything is in bytes and nanoseconds; `None` always means "no limit" or "not known", as said
at each field. sources/ implements the Protocols; views/ only reads them. No I/O happens here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol


class CpuView(Enum):
    """Which CPUs a container with a CFS quota sees."""

    QUOTA = "quota"
    CPUSET = "cpuset"


class CpuNumbering(Enum):
    """How visible CPUs are numbered: as the kernel does, or 0..N-1 as LXCFS's cpuinfo does."""

    PHYSICAL = "physical"
    PACKED = "packed"


class SysCpu(Enum):
    """Whether cpuN directories outside the view are shown (offline) or hidden."""

    OFFLINE = "offline"
    HIDE = "hide"


@dataclass(frozen=True, slots=True)
class Options:
    """The policy switches that views know. Fixed for as long as a snapshot lives."""

    cpu_view: CpuView = CpuView.QUOTA
    cpu_numbering: CpuNumbering = CpuNumbering.PHYSICAL
    sys_cpu: SysCpu = SysCpu.OFFLINE
    swap: bool = True
    zswap: bool = True
    loadavg: bool = True
    vmstat: bool = False


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a cgroup, in bytes. Limits are the minimum over the cgroup and its ancestors.

    `stat` has the names of cgroup v2's memory.stat whatever the host has (sources translate
    v1's total_*), holds only what the kernel gave, and counts the whole subtree. Values that
    v2 counts in events (pgfault, pgscan, ...) are events.
    """

    limit: int | None
    usage: int
    #: Most swap the cgroup may use. v1: memsw limit minus memory limit. None: no limit.
    swap_limit: int | None
    #: None: swap is not accounted on this host.
    swap_usage: int | None
    #: v1's memory.swappiness; None on v2, which has no such file.
    swappiness: int | None
    stat: Mapping[bytes, int]


@dataclass(frozen=True, slots=True)
class CpuLimit:
    """CPUs a cgroup may use: the effective cpuset, and the smallest quota over its ancestors."""

    #: None: no cpuset controller, so every online CPU.
    cpuset: frozenset[int] | None
    #: CPUs worth of time (quota / period). None: no quota.
    quota: float | None


@dataclass(frozen=True, slots=True)
class CpuUsage:
    """CPU time of a cgroup's subtree since it was made, in nanoseconds."""

    user_ns: int
    system_ns: int
    #: By CPU number: (user_ns, system_ns). v1's cpuacct.usage_all; None on v2.
    per_cpu: Mapping[int, tuple[int, int]] | None
    #: v2's cpu.stat nice_usec, inside user_ns (Linux 6.12+).
    nice_ns: int = 0


@dataclass(frozen=True, slots=True)
class BlockIO:
    """What a cgroup did to one block device: bytes, requests, nanoseconds."""

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


@dataclass(frozen=True, slots=True)
class Load:
    """Load of a container: averages over 1, 5 and 15 minutes, and what they were made from."""

    averages: tuple[float, float, float]
    running: int
    total: int
    last_pid: int


@dataclass(slots=True)
class Ledger:
    """What views remember of one container so that its counters never run backwards.

    `cpu_ns` maps a CPU number to the (user, nice, system, idle) nanoseconds shown last;
    `last_ns` is the boot time at which that was. views/cputime.py alone reads and writes it;
    the daemon saves it across restarts.
    """

    cpu_ns: dict[int, tuple[int, int, int, int]] = field(default_factory=dict)
    last_ns: int = 0


class Host(Protocol):
    """The machine."""

    def read(self, path: str) -> bytes:
        """Read a host file whole, `path` relative to the root ("proc/meminfo").

        Raise SourceError if it cannot be read.
        """
        ...

    def recent(self, path: str) -> bytes:
        """Read a host file, or return a reading that is not older than half a rendering's life.

        For the machine's part of what many containers read. Raise SourceError as `read` does.
        """
        ...

    def list(self, path: str) -> list[str]:
        """Return the names in a host directory, in no order, `path` relative to the root.

        Raise SourceError if it cannot be read.
        """
        ...

    def now_ns(self) -> int:
        """CLOCK_BOOTTIME."""
        ...

    def online_cpus(self) -> tuple[int, ...]:
        """Numbers of the online CPUs, ascending."""
        ...


class Container(Protocol):
    """One container, as its init's cgroup and namespace show it.

    Every method reads the kernel anew; each returns None where its controller is absent, and
    raises SourceError (Gone once the cgroup is deleted) where it cannot be read.
    """

    ledger: Ledger

    def memory(self) -> Memory | None: ...

    def cpu_limit(self) -> CpuLimit: ...

    def cpu_usage(self) -> CpuUsage | None: ...

    def block_io(self) -> Mapping[tuple[int, int], BlockIO] | None:
        """By (major, minor)."""
        ...

    def pressure(self, resource: str) -> bytes | None:
        """Return the cgroup's own `cpu`, `memory`, `io` or `irq` pressure text (v2)."""
        ...

    def slabinfo(self) -> bytes | None:
        """Return v1's memory.kmem.slabinfo."""
        ...

    def mems(self) -> frozenset[int] | None:
        """NUMA nodes it may use; None: all."""
        ...

    def started_ns(self) -> int:
        """CLOCK_BOOTTIME at which its init started."""
        ...

    def load(self) -> Load | None:
        """None until it has been sampled, or where load averages are off."""
        ...
