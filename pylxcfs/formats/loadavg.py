"""Parse and render /proc/loadavg: "0.36 0.42 0.43 2/1063 21817".

Printed by loadavg_proc_show (fs/proc/loadavg.c): load averages over 1, 5 and 15 minutes, runnable
threads and all threads, and the last process id that was allocated. The same on v1 and v2.
"""

from __future__ import annotations

from typing import NamedTuple

from pylxcfs.errors import FormatError

#: Longest number that is accepted, so that no float is out of range.
_MAX_DIGITS = 20


class LoadAvg(NamedTuple):
    """The fields of the file; averages are printed with two decimals."""

    averages: tuple[float, float, float]
    running: int
    total: int
    last_pid: int


def parse(text: bytes) -> LoadAvg:
    """Parse the file."""
    words = text.split()
    if len(words) != 5:
        raise FormatError("/proc/loadavg", text)
    running, slash, total = words[3].partition(b"/")
    if not slash:
        raise FormatError("/proc/loadavg", text)
    averages = (_average(words[0]), _average(words[1]), _average(words[2]))
    return LoadAvg(averages, _count(running), _count(total), _count(words[4]))


def render(load: LoadAvg) -> bytes:
    """Render the file."""
    return b"%.2f %.2f %.2f %d/%d %d\n" % (
        *load.averages,
        load.running,
        load.total,
        load.last_pid,
    )


def _average(word: bytes) -> float:
    whole, _, part = word.partition(b".")
    if len(whole) > _MAX_DIGITS or len(part) != 2 or not (whole.isdigit() and part.isdigit()):
        raise FormatError("/proc/loadavg", word)
    return float(word)


def _count(word: bytes) -> int:
    if not word.isdigit() or len(word) > _MAX_DIGITS:
        raise FormatError("/proc/loadavg", word)
    return int(word)
