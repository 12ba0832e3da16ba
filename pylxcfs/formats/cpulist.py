"""Parse and render lists and masks of CPUs or NUMA nodes.

"0-3,5" is in /sys/devices/system/cpu/online, cpuset.cpus.effective (v2), cpuset.effective_cpus
(v1) and nodeN/cpulist (`%*pbl`, lib/vsprintf.c bitmap_list_string); "0000000f" is in nodeN/cpumap
(`%*pb`, bitmap_string). This module knows numbers, not what they count.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from pylxcfs.errors import FormatError

#: Lists that `parse` caches: a host has few different ones.
_REMEMBERED = 256

#: Highest number that is accepted. NR_CPUS is at most 8192; this bounds memory, not machines.
MAX_NUMBER = 65535


@lru_cache(maxsize=_REMEMBERED)
def parse(text: bytes) -> tuple[int, ...]:
    """Return the numbers in `text`, ascending and each once.

    Empty text is an empty list.
    """
    body = text.strip()
    if not body:
        return ()
    numbers: set[int] = set()
    for part in body.split(b","):
        low, dash, high = part.partition(b"-")
        if not low.isdigit() or len(low) > 5 or (dash and (not high.isdigit() or len(high) > 5)):
            raise FormatError("list of CPUs", text)
        first = int(low)
        last = int(high) if dash else first
        if last < first or last > MAX_NUMBER:
            raise FormatError("list of CPUs", text)
        numbers.update(range(first, last + 1))
    return tuple(sorted(numbers))


def render(numbers: Iterable[int]) -> bytes:
    """Return a list as "0-3,5", without a newline; b"" for no numbers."""
    parts: list[str] = []
    first = last = -2
    for number in sorted(set(numbers)):
        if number == last + 1:
            last = number
            continue
        if first >= 0:
            parts.append(f"{first}-{last}" if last > first else f"{first}")
        first = last = number
    if first >= 0:
        parts.append(f"{first}-{last}" if last > first else f"{first}")
    return ",".join(parts).encode()


def mask(numbers: Iterable[int], width: int) -> bytes:
    """Return a mask of `width` bits, without a newline.

    Groups of 32 bits, highest first; only the first may be narrower: 40 bits print as
    "ff,ffffffff".
    """
    bits = 0
    for number in numbers:
        if 0 <= number < width:
            bits |= 1 << number
    groups: list[str] = []
    for low in range((max(width, 1) - 1) // 32 * 32, -1, -32):
        digits = (min(32, max(width, 1) - low) + 3) // 4
        groups.append(f"{bits >> low & 0xFFFFFFFF:0{digits}x}")
    return ",".join(groups).encode()


def parse_mask(text: bytes) -> tuple[tuple[int, ...], int]:
    """Return the numbers in a mask, ascending, and its width in bits.

    The width is that of the digits, so mask() of it has the same groups and digits.
    """
    first, *others = groups = text.strip().split(b",")
    width = 4 * len(first) + 32 * len(others)
    digits = b"".join(groups)
    if (
        not 0 < len(first) <= 8
        or any(len(group) != 8 for group in others)
        or digits.strip(b"0123456789abcdef")
        or width > MAX_NUMBER + 1
    ):
        raise FormatError("mask of CPUs", text)
    bits = int(digits, 16)
    return tuple([number for number in range(width) if bits >> number & 1]), width
