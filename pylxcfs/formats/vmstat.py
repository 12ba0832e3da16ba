"""/proc/vmstat (mm/vmstat.c vmstat_show): `name NUMBER` lines, gauges and event counters mixed.

Gauges are pages, but nr_kernel_stack is kB and those of transparent huge pages count such pages.
pgpgin and pgpgout are kB of block I/O. Names differ with every kernel and configuration, so they
are kept as they come. Knows no policy. (memory.stat looks alike: formats/memorystat.py.)
"""

from __future__ import annotations

from collections.abc import Mapping

from pylxcfs.errors import FormatError

WHAT = "vmstat"

#: Digits of the largest number of 64 bits.
_DIGITS = 20


def parse(text: bytes) -> dict[bytes, bytes]:
    """Return the number, as it is written, by name."""
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
    return b"".join([b"%b %b\n" % item for item in values.items()])
