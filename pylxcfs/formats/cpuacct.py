"""Parse the cpuacct files of cgroup v1 (kernel/sched/cpuacct.c).

    cpuacct.usage_all        cpuacct.usage_percpu     cpuacct.stat
    cpu user system          15599964825 93571397924  user 11069
    0 15599964825 1086568                             system 3362

Printed by cpuacct_all_seq_show, cpuacct_percpu_seq_show and cpuacct_stats_show. usage_all and
usage_percpu are in nanoseconds and have one entry for each *possible* CPU, which may be more than
are present or online. cpuacct.stat is in USER_HZ ticks. v2 has cpu.stat (cpustat.py).
"""

from __future__ import annotations

from pylxcfs.errors import FormatError
from pylxcfs.units import NS_PER_TICK

_HEADER = b"cpu user system\n"


def parse_usage_all(data: bytes) -> dict[int, tuple[int, int]]:
    """Return (user_ns, system_ns) by CPU number."""
    if not data.startswith(_HEADER):
        raise FormatError("cpuacct.usage_all", data)
    try:
        values = list(map(int, data[len(_HEADER) :].split()))
        return dict(zip(values[::3], zip(values[1::3], values[2::3], strict=True), strict=True))
    except ValueError:
        raise FormatError("cpuacct.usage_all", data) from None


def parse_usage_percpu(data: bytes) -> list[int]:
    """Return the nanoseconds of CPU 0, 1, ...; user and system together."""
    try:
        return list(map(int, data.split()))
    except ValueError:
        raise FormatError("cpuacct.usage_percpu", data) from None


def parse_stat(data: bytes) -> tuple[int, int]:
    """Return (user_ns, system_ns), in whole ticks."""
    fields = data.split()
    try:
        values = dict(zip(fields[::2], map(int, fields[1::2]), strict=True))
        return values[b"user"] * NS_PER_TICK, values[b"system"] * NS_PER_TICK
    except (KeyError, ValueError):
        raise FormatError("cpuacct.stat", data) from None
