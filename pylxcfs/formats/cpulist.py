"""Lists of CPUs or NUMA nodes as the kernel prints them: "0-3,5", and masks: "0000000f".

Found in /sys/devices/system/cpu/online, cpuset.cpus.effective, nodeN/cpulist (all `%*pbl`,
lib/vsprintf.c bitmap_list_string) and nodeN/cpumap (`%*pb`, bitmap_string). Knows numbers only,
not what they count.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from pylxcfs.errors import FormatError

#: Lists remembered by `parse`: the same few are read again and again.
_REMEMBERED = 256

#: Highest number taken from text. NR_CPUS is at most 8192; this bounds memory, not machines.
MAX_NUMBER = 65535


@lru_cache(maxsize=_REMEMBERED)
def parse(text: bytes) -> tuple[int, ...]:
    """Numbers in `text`, ascending and each once. Empty text is an empty list."""
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
    """Return "0-3,5" without a newline; b"" for no numbers."""
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
    """Return the mask of `width` bits in groups of 32, highest first, without a newline.

    Only the first group may be narrower: 40 bits print as "ff,ffffffff".
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
    """Numbers in a mask, ascending, and its width in bits as far as its digits tell.

    mask() of that width has the same groups and digits.
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
