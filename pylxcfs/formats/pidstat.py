"""Parse /proc/PID/stat: state, flags, CPU time, threads and start of a process.

Printed by do_task_stat (fs/proc/array.c):

    42 (a (strange) name) S 1 42 42 0 -1 ...

The name may hold blanks, newlines and parentheses, so fields are counted from the last ")".
Times are in USER_HZ ticks; the start time is on CLOCK_BOOTTIME.
"""

from __future__ import annotations

from typing import NamedTuple

from pylxcfs.errors import FormatError

#: Places of the fields 3, 9, 14, 15, 20 and 22 of proc(5), counted from the last ")".
_STATE, _FLAGS, _UTIME, _STIME, _THREADS, _START = 0, 6, 11, 12, 17, 19

#: PF_EXITING of include/linux/sched.h: set before a thread leaves its cgroups.
EXITING = 0x4


class PidStat(NamedTuple):
    """State letter, flags (PF_*), CPU time, number of threads, and start of one process."""

    state: bytes
    flags: int
    user_ticks: int
    system_ticks: int
    threads: int
    start_ticks: int


def parse(data: bytes) -> PidStat:
    """Parse the file."""
    fields = data[data.rfind(b")") + 1 :].split()
    try:
        return PidStat(
            fields[_STATE],
            int(fields[_FLAGS]),
            int(fields[_UTIME]),
            int(fields[_STIME]),
            int(fields[_THREADS]),
            int(fields[_START]),
        )
    except (IndexError, ValueError):
        raise FormatError("stat of a process", data) from None
