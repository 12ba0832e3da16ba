"""How much memory and swap a container has, and how much of it is left: the one computation.

meminfo, swaps and the meminfo of NUMA nodes all ask here, so they agree. The total is the
smallest limit of the cgroup and its ancestors, never more than the host has. What is left is
what the cgroup may still take, never more than the host could still give: unlike LXCFS, a
container with a wide limit on a full host is not told that it has room.

Nothing wraps: a cgroup may use more than a limit that was just lowered, and then nothing is left.
"""

from __future__ import annotations

from typing import NamedTuple

from pylxcfs.errors import FormatError
from pylxcfs.formats.meminfo import MemInfo
from pylxcfs.units import KIB
from pylxcfs.views.model import Memory, Options


class Amounts(NamedTuple):
    """In bytes. Nothing is negative, and no part is more than its total."""

    total: int
    free: int
    available: int
    swap_total: int
    swap_free: int


def amounts(host: MemInfo, memory: Memory, options: Options) -> Amounts:
    """Work out what the container has of `host`."""
    host_total = _number(host, b"MemTotal")
    host_free = _number(host, b"MemFree")
    host_available = host.number(b"MemAvailable")  # since Linux 3.14
    if host_available is None:
        host_available = host_total
    total = host_total
    limited = False
    if memory.limit is not None and KIB <= memory.limit < host_total:
        total = memory.limit
        limited = True

    left = total - memory.usage
    if left < 0:
        left = 0
    stat = memory.stat.get
    # What the kernel takes back before it says that memory is out (mm/show_mem.c
    # si_mem_available, but for watermarks, which a cgroup has none of).
    reclaimable = stat(b"active_file", 0) + stat(b"inactive_file", 0)
    reclaimable += stat(b"slab_reclaimable", 0)
    available = min(left + reclaimable, total, host_available)
    # Others' page cache is free to a limited container: the kernel drops it to satisfy the
    # limit's share. Were the host's MemFree the bound, a container on any host that has run for
    # a while would count that cache as used by itself.
    free = min(left, host_available if limited else host_free)
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
    if memory.swappiness == 0:  # nothing more of it will be swapped out
        return min(total, usage), 0
    return total, min(max(total - usage, 0), host.number(b"SwapFree") or 0)


def _number(host: MemInfo, name: bytes) -> int:
    value = host.number(name)
    if value is None:
        raise FormatError("meminfo", name)
    return value
