"""Cgroup files that hold one value: memory.max, memory.current, cpu.max, cpu.cfs_quota_us.

Turns each hierarchy's way of saying "no limit" into None: "max" on v2, -1 or the largest
multiple of a page in v1 (9223372036854771712 with pages of 4 KiB).
"""

from __future__ import annotations

from pylxcfs.errors import FormatError

#: v1's "no limit" is 2**63 - 1 rounded down to a page; pages are at most 256 KiB (PowerPC).
_V1_UNLIMITED = (1 << 63) - (1 << 18)


def number(data: bytes) -> int:
    try:
        return int(data)
    except ValueError:
        raise FormatError("a cgroup's value", data) from None


def limit(data: bytes) -> int | None:
    """Return the bytes of memory.max, memory.swap.max or a v1 limit_in_bytes."""
    return None if data == b"max\n" else limit_v1(number(data))


def limit_v1(value: int) -> int | None:
    """Return the bytes of a v1 limit that was read as a number."""
    return None if value >= _V1_UNLIMITED or value < 0 else value


def cpu_max(data: bytes) -> float | None:
    """Return the CPUs' worth of time of v2's cpu.max ("50000 100000")."""
    quota, _, period = data.partition(b" ")
    return None if quota == b"max" else _ratio(number(quota), number(period), data)


def cfs(quota: bytes, period: bytes) -> float | None:
    """Return the CPUs' worth of time of v1's cpu.cfs_quota_us and cpu.cfs_period_us."""
    time = number(quota)
    return None if time < 0 else _ratio(time, number(period), quota)


def _ratio(quota: int, period: int, data: bytes) -> float:
    if quota < 0 or period <= 0:
        raise FormatError("a CPU quota", data)
    try:
        return quota / period
    except OverflowError:
        raise FormatError("a CPU quota", data) from None
