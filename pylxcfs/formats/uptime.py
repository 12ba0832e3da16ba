"""Parse and render /proc/uptime: "350735.47 234388.90".

Printed by uptime_proc_show (fs/proc/uptime.c): seconds since boot and idle seconds summed over
all CPUs, with two decimals, rounded down. Nanoseconds in this module. The same on v1 and v2.
"""

from __future__ import annotations

from typing import NamedTuple

from pylxcfs.errors import FormatError

_NS_PER_HUNDREDTH = 10_000_000

#: Most digits of seconds that are accepted: more than 64 bits of nanoseconds hold.
_MAX_DIGITS = 20


class Uptime(NamedTuple):
    """Time since boot, and idle time summed over the CPUs."""

    up_ns: int
    idle_ns: int


def parse(text: bytes) -> Uptime:
    """Parse the file."""
    words = text.split()
    if len(words) != 2:
        raise FormatError("/proc/uptime", text)
    return Uptime(_ns(words[0]), _ns(words[1]))


def render(uptime: Uptime) -> bytes:
    """Render the file, rounded down to hundredths."""
    up, up_part = divmod(uptime.up_ns // _NS_PER_HUNDREDTH, 100)
    idle, idle_part = divmod(uptime.idle_ns // _NS_PER_HUNDREDTH, 100)
    return b"%d.%02d %d.%02d\n" % (up, up_part, idle, idle_part)


def _ns(word: bytes) -> int:
    seconds, _, part = word.partition(b".")
    if len(part) != 2 or len(seconds) > _MAX_DIGITS or not (seconds.isdigit() and part.isdigit()):
        raise FormatError("/proc/uptime", word)
    return (int(seconds) * 100 + int(part)) * _NS_PER_HUNDREDTH
