"""Parse /proc/PID/timens_offsets: how far the clocks of a time namespace are ahead.

Printed by proc_timens_show_offsets (kernel/time/namespace.c), for the namespace of the process's
children, which an init shares with them:

    monotonic           0         0
    boottime        -1000 500000000

Clock, seconds and nanoseconds, relative to the host's clocks. A negative offset has negative
seconds; nanoseconds are 0 to 999999999. Linux 5.6 prints numbers for the names (1 and 7); kernels
before it and those without CONFIG_TIME_NS have no such file.
"""

from __future__ import annotations

from pylxcfs.errors import FormatError
from pylxcfs.units import NS_PER_S

_WHAT = "timens_offsets"

#: CLOCK_BOOTTIME, by name or number.
_BOOTTIME = (b"boottime", b"7")


def boottime_ns(text: bytes) -> int:
    """Return the offset of CLOCK_BOOTTIME in nanoseconds."""
    for line in text.splitlines():
        words = line.split()
        if words and words[0] in _BOOTTIME:
            try:
                seconds, nanoseconds = map(int, words[1:])
            except ValueError:
                raise FormatError(_WHAT, line) from None
            return seconds * NS_PER_S + nanoseconds
    raise FormatError(_WHAT, text)
