"""Checks that the text of a file is complete, well-formed and consistent.

An oracle that shares no code with the package. `check` raises AssertionError with the place. It
knows nothing of limits: a test checks whether the values are those of the right container.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

_MEMINFO = re.compile(rb"([A-Za-z0-9_()]+): +(\d+)(?: kB)?")
_UPTIME = re.compile(rb"\d+\.\d\d \d+\.\d\d")
_LOADAVG = re.compile(rb"(?:\d+\.\d\d ){3}(\d+)/(\d+) \d+")
_PRESSURE = re.compile(rb"(some|full) avg10=\d+\.\d\d avg60=\d+\.\d\d avg300=\d+\.\d\d total=\d+")
_CPULIST = re.compile(rb"(?:\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*)?")
_MEMINFO_MUST = (
    b"MemTotal MemFree MemAvailable Buffers Cached SwapCached Active Inactive Active(anon) "
    b"Inactive(anon) Active(file) Inactive(file) Unevictable SwapTotal SwapFree Dirty Writeback "
    b"AnonPages Mapped Shmem Slab"
).split()
_STAT_MUST = b"intr ctxt btime processes procs_running procs_blocked softirq".split()
#: The kernel sums up and prints the CPUs in two passes: ticks that may pass between them.
_TICKS_BETWEEN = 25


def check(path: str, content: bytes) -> None:
    """Check a file; `path` is like "proc/meminfo" or "/proc/meminfo"."""
    path = path.lstrip("/")
    checker = _CHECKERS.get(path) or _by_directory(path)
    if checker not in (_diskstats, _cpulist):
        assert content, f"{path} is empty"
    assert not content or content.endswith(b"\n"), f"{path} is cut off: {content[-60:]!r}"
    assert b"\0" not in content, f"{path} has NULs"
    try:
        # While its size changes, the own mount pads a text with blanks before the last newline.
        checker(content.rstrip(b" \n").splitlines())
    except (AssertionError, ValueError, IndexError, KeyError) as error:
        raise AssertionError(f"{path}: {error!r} in\n{content.decode(errors='replace')}") from error


def cpu_numbers(path: str, content: bytes) -> list[int]:
    """Return the CPUs of proc/cpuinfo (x86) or proc/stat, in order."""
    pattern = rb"^processor\s*: (\d+)$" if path.endswith("cpuinfo") else rb"^cpu(\d+) "
    return [int(number) for number in re.findall(pattern, content, re.MULTILINE)]


def _by_directory(path: str) -> Callable[[list[bytes]], None]:
    if path.startswith("proc/pressure/"):
        return _pressure
    if path.startswith("sys/devices/system/"):
        return _cpulist
    raise AssertionError(f"no check for {path}")


def _meminfo(lines: list[bytes]) -> None:
    values: dict[bytes, int] = {}
    for line in lines:
        match = _MEMINFO.fullmatch(line)
        assert match, line
        assert match[1] not in values, f"twice: {line!r}"
        values[match[1]] = int(match[2])
        assert values[match[1]] < 1 << 62, f"wrapped: {line!r}"
    missing = [name for name in _MEMINFO_MUST if name not in values]
    assert not missing, missing
    assert values[b"MemFree"] <= values[b"MemTotal"]
    assert values[b"MemAvailable"] <= values[b"MemTotal"]
    assert values[b"SwapFree"] <= values[b"SwapTotal"]
    for name in (b"Active", b"Inactive"):
        parts = values[name + b"(anon)"] + values[name + b"(file)"]
        assert values[name] == parts, f"{name!r} is not {parts}"


def _stat(lines: list[bytes]) -> None:
    rows = [line.split() for line in lines]
    assert rows[0][0] == b"cpu", rows[0]
    cpus = [row for row in rows if row[0].startswith(b"cpu")]
    assert len(cpus) > 1, "no CPUs"
    assert [row[0] for row in rows[: len(cpus)]] == [row[0] for row in cpus], "CPUs are scattered"
    numbers = [int(row[0][3:]) for row in cpus[1:]]
    assert all(a < b for a, b in pairwise(numbers)), numbers
    assert {len(row) for row in cpus} == {11}, "not ten fields"
    for column in range(1, 11):
        total, parts = int(cpus[0][column]), sum(int(row[column]) for row in cpus[1:])
        slack = len(numbers) * (1 + _TICKS_BETWEEN)
        assert abs(total - parts) <= slack, f"column {column}: {total}, of parts {parts}"
    rest = [row[0] for row in rows[len(cpus) :]]
    missing = [name for name in _STAT_MUST if name not in rest]
    assert not missing, missing
    for row in rows:
        assert all(field.isdigit() for field in row[1:]), row


def _cpuinfo(lines: list[bytes]) -> None:
    numbers = []
    for line in lines:
        if not line:
            continue
        key, colon, value = line.partition(b":")
        assert colon, line
        if key.strip() == b"processor" and value.strip().isdigit():
            numbers.append(int(value))
    assert numbers, "no processor"
    assert all(a < b for a, b in pairwise(numbers)), numbers
    blocks = [block for block in b"\n".join(lines).split(b"\n\n") if block.startswith(b"processor")]
    keys = {tuple(line.partition(b":")[0] for line in block.splitlines()) for block in blocks}
    assert len(keys) == 1, f"blocks differ: {keys}"


def _uptime(lines: list[bytes]) -> None:
    (line,) = lines
    assert _UPTIME.fullmatch(line), line


def _loadavg(lines: list[bytes]) -> None:
    (line,) = lines
    match = _LOADAVG.fullmatch(line)
    assert match, line
    assert int(match[1]) <= int(match[2]), line


def _swaps(lines: list[bytes]) -> None:
    assert lines[0].split() == b"Filename Type Size Used Priority".split(), lines[0]
    for line in lines[1:]:
        _, _, size, used, priority = line.rsplit(maxsplit=4)
        assert int(used) <= int(size), line
        int(priority)


def _diskstats(lines: list[bytes]) -> None:
    for line in lines:
        row = line.split()
        assert len(row) in (14, 18, 20), line
        assert all(field.isdigit() for field in row[:2] + row[3:]), line


def _slabinfo(lines: list[bytes]) -> None:
    assert lines[0].startswith(b"slabinfo - version:"), lines[0]


def _vmstat(lines: list[bytes]) -> None:
    for line in lines:
        name, value = line.split()
        assert 0 <= int(value) < 1 << 63, name


def _pressure(lines: list[bytes]) -> None:
    found = []
    for line in lines:
        match = _PRESSURE.fullmatch(line)
        assert match, line
        found.append(match[1])
    assert found in ([b"some"], [b"some", b"full"], [b"full"]), found


def _cpulist(lines: list[bytes]) -> None:
    assert len(lines) <= 1, lines
    assert not lines or _CPULIST.fullmatch(lines[0]), lines


_CHECKERS: dict[str, Callable[[list[bytes]], None]] = {
    "proc/meminfo": _meminfo,
    "proc/cpuinfo": _cpuinfo,
    "proc/stat": _stat,
    "proc/uptime": _uptime,
    "proc/loadavg": _loadavg,
    "proc/swaps": _swaps,
    "proc/diskstats": _diskstats,
    "proc/slabinfo": _slabinfo,
    "proc/vmstat": _vmstat,
}
