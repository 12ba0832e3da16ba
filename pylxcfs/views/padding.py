"""Lengthen a text without changing what it says, so that its size stays the same.

The kernel is told a file's size before it gets the text, and a size that changes under readers
cuts one of them off: so a text that turns out shorter is filled up, and the first has room to grow.
Not every file allows it: a list of CPUs is compared whole by some readers, so those have no pad.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Padding(NamedTuple):
    """How the text of a file is lengthened, and for how much growth."""

    #: Lengthen a text to so many bytes; a longer one is left alone.
    fill: Callable[[bytes, int], bytes]
    #: Bytes by which a text may grow until its size has to change.
    room: int = 0


def blanks(text: bytes, length: int) -> bytes:
    """Fill `text` to `length` bytes with blanks at the end of its last line that says anything.

    Empty lines at the end stay empty: they end a block of cpuinfo. A longer text is left alone.
    """
    missing = length - len(text)
    if missing <= 0:
        return text
    if not text:
        return b" " * (missing - 1) + b"\n"
    end = len(text.rstrip(b"\n"))
    return text[:end] + b" " * missing + text[end:]
