"""Parse and render /proc/stat: CPU times, and counters of the machine.

Printed by show_stat (fs/proc/stat.c): "cpu  " and ten columns in USER_HZ ticks (user nice system
idle iowait irq softirq steal guest guest_nice), one "cpuN" line for each online CPU, then intr,
ctxt, btime, processes, procs_running, procs_blocked, softirq. The `intr` line may have thousands
of numbers, so the text after the CPU lines is not parsed. The same on v1 and v2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pylxcfs.errors import FormatError

_WHAT = "/proc/stat"

#: Columns of a rendered CPU line; a parsed line may have fewer or more.
COLUMNS = 10

#: Most digits of a number: 64 bits have at most 20.
_MAX_DIGITS = 20

#: The columns after user, nice, system and idle in a rendered line: iowait .. guest_nice.
_ZEROS = b" 0" * (COLUMNS - 4)


@dataclass(frozen=True, slots=True)
class Stat:
    """Columns of the CPU lines, and the bytes after them."""

    total: tuple[int, ...]
    cpus: Mapping[int, tuple[int, ...]]
    rest: bytes


def rest(text: bytes) -> bytes:
    """Return the text after the CPU lines, from `intr` on."""
    end = text.find(b"\nintr ")
    if end < 0:
        end = text.find(b"\n", text.rfind(b"\ncpu") + 1)
    if end < 0 or not text.startswith(b"cpu"):
        raise FormatError(_WHAT, text)
    return text[end + 1 :]


def parse(text: bytes) -> Stat:
    """Parse the CPU lines; keep the text after them."""
    tail = rest(text)
    lines = text[: len(text) - len(tail)].splitlines()
    total = _columns(lines[0], b"cpu")
    cpus: dict[int, tuple[int, ...]] = {}
    for line in lines[1:]:
        name = line.partition(b" ")[0]
        number = name[3:]
        if not name.startswith(b"cpu") or not number.isdigit() or len(number) > 5:
            raise FormatError(_WHAT, line)
        cpus[int(number)] = _columns(line, name)
    return Stat(total, cpus, tail)


def render(stat: Stat) -> bytes:
    """Render the file; the inverse of parse()."""
    lines = [b"cpu  %b\n" % _join(stat.total)]
    lines += [b"cpu%d %b\n" % (cpu, _join(columns)) for cpu, columns in stat.cpus.items()]
    return b"".join(lines) + stat.rest


def total_line(user: int, nice: int, system: int, idle: int) -> bytes:
    """Return the "cpu" line; times in ticks, other columns zero."""
    return b"cpu  %d %d %d %d%b\n" % (user, nice, system, idle, _ZEROS)


def cpu_line(cpu: int, user: int, nice: int, system: int, idle: int) -> bytes:
    """Return a "cpuN" line; times in ticks, other columns zero."""
    return b"cpu%d %d %d %d %d%b\n" % (cpu, user, nice, system, idle, _ZEROS)


def replaced(tail: bytes, name: bytes, value: int) -> bytes:
    """Return `tail` with `value` in the line `name`, if it has one."""
    start = tail.find(b"\n%b " % name)
    if start < 0:
        return tail
    start += len(name) + 2
    end = tail.find(b"\n", start)
    return b"%b%d%b" % (tail[:start], value, tail[end:] if end >= 0 else b"")


def booted(tail: bytes) -> int | None:
    """Return the seconds in the line `btime`; None without that line."""
    _, found, after = tail.partition(b"\nbtime ")
    seconds = after.partition(b"\n")[0]
    if not found:
        return None
    if not seconds.isdigit() or len(seconds) > _MAX_DIGITS:
        raise FormatError(_WHAT, seconds)
    return int(seconds)


def _columns(line: bytes, name: bytes) -> tuple[int, ...]:
    """Return the numbers of a CPU line."""
    words = line.split()
    if len(words) < 5 or words[0] != name:
        raise FormatError(_WHAT, line)
    try:
        return tuple(map(int, words[1:]))
    except ValueError:
        raise FormatError(_WHAT, line) from None


def _join(columns: tuple[int, ...]) -> bytes:
    return b" ".join([b"%d" % column for column in columns])
