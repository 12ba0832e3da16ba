"""Memory and swap of a container: totals, free and available.

meminfo, swaps and the meminfo of NUMA nodes all use this module, so they agree. The total is the
smallest limit of the cgroup and its ancestors (v1 memory.limit_in_bytes, v2 memory.max), at most
the host's total. Free memory is the total minus usage, or what an ancestor with a limit leaves if
that is less (its limit minus its usage), whatever the host's MemFree is: a program that computes
used memory from it gets what the container, and others under the same limit, use. What the host
can give bounds available memory alone.

No value wraps: usage may exceed a limit that was lowered, and then 0 is free.
"""

from __future__ import annotations

from typing import NamedTuple

from pylxcfs.errors import FormatError
from pylxcfs.formats.meminfo import MemInfo
from pylxcfs.views.model import Memory, Options


class Amounts(NamedTuple):
    """Bytes. No value is negative, and no part exceeds its total."""

    total: int
    free: int
    available: int
    swap_total: int
    swap_free: int


def amounts(host: MemInfo, memory: Memory, options: Options) -> Amounts:
    """Return the container's share of the memory of `host`."""
    host_total = number(host, b"MemTotal")
    host_available = host.number(b"MemAvailable")  # since Linux 3.14
    if host_available is None:
        host_available = host_total
    total = host_total
    if memory.limit is not None and memory.limit < host_total:
        total = max(memory.limit, 0)  # a limit of 0 is a limit

    # Not cut to the host's MemFree or MemAvailable: the page cache, and the memory of others,
    # would look as if the container used them.
    free = total - memory.usage
    if memory.left is not None and memory.left < free:
        free = memory.left
    if free < 0:
        free = 0
    stat = memory.stat.get
    # Memory that the kernel reclaims before an OOM (mm/show_mem.c si_mem_available, without
    # watermarks, which a cgroup does not have).
    reclaimable = stat(b"active_file", 0) + stat(b"inactive_file", 0)
    reclaimable += stat(b"slab_reclaimable", 0)
    available = min(free + reclaimable, total, host_available)
    swap_total, swap_free = _swap(host, memory, options)
    return Amounts(total, free, available, swap_total, swap_free)


def _swap(host: MemInfo, memory: Memory, options: Options) -> tuple[int, int]:
    usage = memory.swap_usage
    if usage is None or not options.swap:
        return 0, 0
    total = host.number(b"SwapTotal")
    if not total:
        return 0, 0
    if memory.swap_limit is not None:
        total = min(total, max(memory.swap_limit, 0))
    if memory.swappiness == 0:  # no more of it will be swapped out
        return min(total, usage), 0
    free = total - usage
    if memory.swap_left is not None:
        free = min(free, memory.swap_left)
    return total, max(free, 0)


def number(host: MemInfo, name: bytes) -> int:
    """Return a value that every meminfo has. Raise FormatError without it."""
    value = host.number(name)
    if value is None:
        raise FormatError("meminfo", name)
    return value
