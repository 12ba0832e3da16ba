"""Parse cpu.stat of cgroup v2: the CPU time of a cgroup.

Printed by cgroup_base_stat_cputime_show (kernel/cgroup/rstat.c) and cpu_extra_stat_show
(kernel/sched/core.c), in microseconds:

usage_usec 500
user_usec 300
system_usec 200
nice_usec 0            (Linux 6.13+; part of user_usec)
nr_periods 0           (only where the cpu controller is enabled)

v1 has cpuacct (cpuacct.py).
"""

from __future__ import annotations

from typing import NamedTuple

from pylxcfs.errors import FormatError

_NS_PER_US = 1000


class CpuStat(NamedTuple):
    """CPU time in nanoseconds."""

    user_ns: int
    system_ns: int
    nice_ns: int


def parse(data: bytes) -> CpuStat:
    """Parse the file."""
    fields = data.split()
    values = dict(zip(fields[::2], fields[1::2], strict=False))
    try:
        return CpuStat(
            int(values[b"user_usec"]) * _NS_PER_US,
            int(values[b"system_usec"]) * _NS_PER_US,
            int(values.get(b"nice_usec", 0)) * _NS_PER_US,
        )
    except (KeyError, ValueError):
        raise FormatError("cpu.stat", data) from None
