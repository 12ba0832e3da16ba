"""Parse and render /proc/diskstats: counters of each block device.

Printed by diskstats_show (block/genhd.c): major, minor, name, then reads, reads merged, sectors
read, ms reading, the same four of writes, requests in flight, ms busy, ms waited in all; since
4.18 the four of discards, since 5.5 flushes and ms flushing. A sector is 512 bytes, whatever the
sector size of the device is. The same on v1 and v2; which lines a container sees is policy and
lives in views/diskstats.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from pylxcfs.errors import FormatError

_WHAT = "/proc/diskstats"

#: Numbers after the name since Linux 5.5. Text of other kernels may have 11, 15 or more than 17.
COLUMNS = 17

_NAME = re.compile(rb" *(\d+) +(\d+) (\S+) .*\n")

#: Sets of devices that are cached: a machine has one until a disk is added or removed.
_REMEMBERED = 8

Device = tuple[int, int]


class Disk(NamedTuple):
    """A line of the file."""

    device: Device
    name: bytes
    columns: tuple[int, ...]


def parse(text: bytes) -> list[Disk]:
    """Parse every line, in order."""
    try:
        return [
            Disk(device, name, tuple(map(int, rest.split()))) for device, name, rest in _lines(text)
        ]
    except ValueError:
        raise FormatError(_WHAT, text) from None


def names(text: bytes) -> Mapping[Device, bytes]:
    """Return the name of each device, in order, without parsing its numbers."""
    return _layout(_found(text))[0]


def idle(text: bytes) -> bytes:
    """Return the file with all counters at zero."""
    return _layout(_found(text))[1]


def _found(text: bytes) -> tuple[tuple[bytes, bytes, bytes], ...]:
    """Return major, minor and name of each device."""
    found = tuple(_NAME.findall(text))
    if len(found) == text.count(b"\n"):
        return found
    return tuple([(b"%d" % major, b"%d" % minor, name) for (major, minor), name, _ in _lines(text)])


@lru_cache(maxsize=_REMEMBERED)
def _layout(
    found: tuple[tuple[bytes, bytes, bytes], ...],
) -> tuple[Mapping[Device, bytes], bytes]:
    """Return the names of devices, and their lines with zeros."""
    devices = {(int(major), int(minor)): name for major, minor, name in found}
    zeros = (0,) * COLUMNS
    return devices, render([Disk(device, name, zeros) for device, name in devices.items()])


def render(disks: Iterable[Disk]) -> bytes:
    """Render lines as the kernel does."""
    return b"".join([_line(disk) for disk in disks])


def _line(disk: Disk) -> bytes:
    device, name, columns = disk
    count = len(columns)
    # Most lines are zeros: a container uses few of a host's disks.
    numbers = b" %d" * count % columns if any(columns) else b" 0" * count
    return b"%4d %7d %b%b\n" % (*device, name, numbers)


def _lines(text: bytes) -> Iterator[tuple[Device, bytes, bytes]]:
    """Yield (device, name, numbers) of each line."""
    for line in text.split(b"\n"):
        words = line.split(None, 3)
        if not words:
            continue
        if len(words) < 4 or not words[0].isdigit() or not words[1].isdigit():
            raise FormatError(_WHAT, line)
        try:
            yield (int(words[0]), int(words[1])), words[2], words[3]
        except ValueError:
            raise FormatError(_WHAT, line) from None
