"""Parse and render /proc/vmstat: `name NUMBER` lines, gauges and event counters.

Printed by vmstat_show (mm/vmstat.c). Gauges are in pages, except nr_kernel_stack (kB) and those
of transparent huge pages (huge pages). pgpgin and pgpgout are kB of block I/O. Names differ by
kernel and configuration and are kept as they are. The same on v1 and v2. memory.stat has a
similar format (memorystat.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from pylxcfs.errors import FormatError

WHAT = "vmstat"

#: Most digits of a number: 64 bits have at most 20.
_DIGITS = 20


def parse(text: bytes) -> dict[bytes, bytes]:
    """Return the number by name, as text."""
    if text[-1:] != b"\n":
        raise FormatError(WHAT, text[-80:])
    lines = text[:-1].split(b"\n")
    try:
        values: dict[bytes, bytes] = dict([line.split(b" ") for line in lines])
    except ValueError:
        raise FormatError(WHAT, text) from None
    numbers = values.values()
    if len(values) != len(lines) or not all(map(bytes.isdigit, numbers)):
        raise FormatError(WHAT, text)
    if max(map(len, numbers)) > _DIGITS:
        raise FormatError(WHAT, text)
    return values


def render(values: Mapping[bytes, bytes]) -> bytes:
    """Render the file."""
    return b"".join([b"%b %b\n" % item for item in values.items()])
