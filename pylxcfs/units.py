"""Units of the kernel's text.

In pylxcfs sizes are bytes and times are nanoseconds. Other units are converted where text is parsed
or rendered. This module knows no file and no policy.
"""

from __future__ import annotations

import os

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

NS_PER_S = 1_000_000_000

#: Ticks a second in /proc/stat and /proc/PID/stat (USER_HZ, 100 on every Linux port in use).
USER_HZ = os.sysconf("SC_CLK_TCK")

NS_PER_TICK = NS_PER_S // USER_HZ

#: A sector of /proc/diskstats, whatever the sector size of the disk is (block/genhd.c).
SECTOR = 512


def ticks(ns: int) -> int:
    """Return nanoseconds as USER_HZ ticks, rounded down."""
    return ns // NS_PER_TICK
