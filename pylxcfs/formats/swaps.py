"""Parse and render /proc/swaps: a header, then one line a swap area.

Printed by swap_show (mm/swapfile.c), sizes in kB. The path fills 40 columns (or has one blank
after it), the type is "partition" or "file", and sizes are separated by tabs, with a second tab
after those below 10,000,000. The same on v1 and v2; what a container sees is in views/swaps.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pylxcfs.errors import FormatError
from pylxcfs.units import KIB

WHAT = "swaps"
HEADER = b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"


class Area(NamedTuple):
    """A swap area; sizes in bytes, blanks in `name` escaped as \\040."""

    name: bytes
    type: bytes
    size: int
    used: int
    priority: int


def parse(text: bytes) -> list[Area]:
    """Return the swap areas.

    The header is dropped: its tabs differ between kernels.
    """
    header, newline, rest = text.partition(b"\n")
    if not newline or not header.startswith(b"Filename") or (rest and rest[-1:] != b"\n"):
        raise FormatError(WHAT, text[:80])
    areas = []
    for entry in rest.splitlines():
        fields = entry.rsplit(None, 4)
        try:
            name, kind = fields[0], fields[1]
            size, used, priority = int(fields[2]), int(fields[3]), int(fields[4])
        except (ValueError, IndexError):
            raise FormatError(WHAT, entry) from None
        if size < 0 or used < 0:
            raise FormatError(WHAT, entry)
        areas.append(Area(name, kind, size * KIB, used * KIB, priority))
    return areas


def render(areas: Iterable[Area]) -> bytes:
    """Render the file."""
    lines = [HEADER]
    for area in areas:
        size, used = area.size // KIB, area.used // KIB
        name = area.name.ljust(39) + b" "
        # Tab stops are every 8 columns: "partition" passes one, a shorter type needs a second tab.
        kind = area.type + (b"\t" if len(area.type) >= 8 else b"\t\t")
        lines.append(
            b"%b%b%d\t%b%d\t%b%d\n"
            % (name, kind, size, _tab(size), used, _tab(used), area.priority)
        )
    return b"".join(lines)


def _tab(kib: int) -> bytes:
    return b"\t" if kib < 10_000_000 else b""
