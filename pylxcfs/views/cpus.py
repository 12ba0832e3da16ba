"""The CPUs that a container sees, and their numbers.

cpuinfo, stat, uptime, /sys/devices/system/cpu and the node lists all use this module, so they
agree. A container sees the online CPUs of its effective cpuset (v1 cpuset.effective_cpus, v2
cpuset.cpus.effective); with a CFS quota (v1 cpu.cfs_quota_us / cpu.cfs_period_us, v2 cpu.max) it
sees the lowest ceil(quota) of them (CpuView.QUOTA). Their CPU times are in views/cputime.py.

Unlike LXCFS, the effective cpuset counts and not the configured mask (which may be wider than
what the parent allows), the smallest quota of all ancestors counts, and numbers are the kernel's
own by default, so that they agree with sched_getaffinity(2).
"""

from __future__ import annotations

import math
from functools import lru_cache

from pylxcfs.views.model import Container, CpuLimit, CpuNumbering, CpuView, Host, Options

#: A quota that exceeds a whole number by less than this counts as that number: the division has
#: a rounding error, and the kernel's smallest step (1 us in 1 s) is not worth a CPU.
_NOISE = 2e-6

#: Results that are cached: a machine has few sizes of containers.
_REMEMBERED = 256


def visible(host: Host, container: Container, options: Options) -> tuple[int, ...]:
    """Return the real numbers of the visible CPUs, ascending, at least one."""
    return within(host.online_cpus(), container.cpu_limit(), options)


def within(online: tuple[int, ...], limit: CpuLimit, options: Options) -> tuple[int, ...]:
    """Return the part of `online` that `limit` makes visible.

    All of `online` counts if the cpuset has none of it.
    """
    quota = limit.quota if options.cpu_view is CpuView.QUOTA else None
    return _within(online, limit.cpuset, quota)


@lru_cache(maxsize=_REMEMBERED)
def _within(
    online: tuple[int, ...], cpuset: frozenset[int] | None, quota: float | None
) -> tuple[int, ...]:
    cpus = online
    if cpuset is not None:
        cpus = tuple([cpu for cpu in online if cpu in cpuset]) or online
    if quota is not None and quota < len(cpus):
        cpus = cpus[: max(1, math.ceil(quota - _NOISE))]
    return cpus


def shown(cpus: tuple[int, ...], options: Options) -> tuple[int, ...]:
    """Return the numbers that `cpus` appear under, in the same order.

    The real numbers, or 0..N-1 with CpuNumbering.PACKED.
    """
    return tuple(range(len(cpus))) if options.cpu_numbering is CpuNumbering.PACKED else cpus


def names(cpus: tuple[int, ...], options: Options) -> dict[int, int]:
    """Map real numbers of CPUs to those they appear under, in order."""
    return dict(zip(cpus, shown(cpus, options), strict=True))
