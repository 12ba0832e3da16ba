"""Which CPUs a container sees and under which numbers: the one computation of both.

cpuinfo, stat, uptime, /sys/devices/system/cpu and the node lists all ask here, so they agree.
A container sees the online CPUs of its effective cpuset; with a CFS quota it sees the lowest
ceil(quota) of them (CpuView.QUOTA). Their times are views/cputime.py's business.

Unlike LXCFS, the effective cpuset counts and not the configured mask (which may be wider than
what the parent allows), the smallest quota of all ancestors counts, and numbers are the
kernel's own by default, so that they agree with sched_getaffinity(2).
"""

from __future__ import annotations

import math
from functools import lru_cache

from pylxcfs.views.model import Container, CpuLimit, CpuNumbering, CpuView, Host, Options

#: Part of a CPU that a quota may exceed a whole number by and still count as that number:
#: quota / period is a division, and the kernel's finest step (1 us in 1 s) is no CPU either.
_NOISE = 2e-6

#: Answers remembered: a machine has few sizes of containers.
_REMEMBERED = 256


def visible(host: Host, container: Container, options: Options) -> tuple[int, ...]:
    """Real numbers of the CPUs that the container sees, ascending, at least one."""
    return within(host.online_cpus(), container.cpu_limit(), options)


def within(online: tuple[int, ...], limit: CpuLimit, options: Options) -> tuple[int, ...]:
    """Part of `online` that `limit` leaves visible; all of it where a cpuset has none of it."""
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
    """Numbers under which the CPUs `cpus` appear, in the same order.

    They are the real ones, or 0..N-1 with CpuNumbering.PACKED.
    """
    return tuple(range(len(cpus))) if options.cpu_numbering is CpuNumbering.PACKED else cpus


def names(cpus: tuple[int, ...], options: Options) -> dict[int, int]:
    """Map the real number of each visible CPU to the one it appears under, in order."""
    return dict(zip(cpus, shown(cpus, options), strict=True))
