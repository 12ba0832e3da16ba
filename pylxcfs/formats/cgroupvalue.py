"""Parse cgroup files that hold one value.

    memory.max, memory.current      mm/memcontrol.c memory_max_show, memory_current_read
    memory.limit_in_bytes (v1)      mm/memcontrol-v1.c mem_cgroup_read_u64
    cpu.max                         kernel/sched/core.c cpu_max_show
    cpu.cfs_quota_us (v1)           kernel/sched/core.c cpu_cfs_quota_read_s64

Memory is in bytes, CPU time in microseconds. "No limit" becomes None: "max" on v2, -1 or the
largest multiple of a page on v1 (9223372036854771712 with pages of 4 KiB).
"""

from __future__ import annotations

from pylxcfs.errors import FormatError

#: "No limit" on v1 is 2**63 - 1 rounded down to a page; pages have at most 256 KiB (PowerPC).
_V1_UNLIMITED = (1 << 63) - (1 << 18)


def number(data: bytes) -> int:
    """Return the integer in a file."""
    try:
        return int(data)
    except ValueError:
        raise FormatError("a cgroup's value", data) from None


def limit(data: bytes) -> int | None:
    """Return a memory limit in bytes; None for no limit."""
    return None if data == b"max\n" else limit_v1(number(data))


def limit_v1(value: int) -> int | None:
    """Return a v1 limit in bytes; None for no limit."""
    return None if value >= _V1_UNLIMITED or value < 0 else value


def cpu_max(data: bytes) -> float | None:
    """Return quota / period of v2's cpu.max ("50000 100000"), in CPUs."""
    quota, _, period = data.partition(b" ")
    return None if quota == b"max" else _ratio(number(quota), number(period), data)


def cfs(quota: bytes, period: bytes) -> float | None:
    """Return v1's cpu.cfs_quota_us / cpu.cfs_period_us, in CPUs."""
    time = number(quota)
    return None if time < 0 else _ratio(time, number(period), quota)


def _ratio(quota: int, period: int, data: bytes) -> float:
    if quota < 0 or period <= 0:
        raise FormatError("a CPU quota", data)
    try:
        return quota / period
    except OverflowError:
        raise FormatError("a CPU quota", data) from None
