"""Lengthen a text without changing what it says, so that its size may be announced ahead.

A file's size is told before its text is rendered; a text that turns out shorter is filled up.
Not every file allows it: a list of CPUs is compared whole by some readers, so those have no pad.
"""

from __future__ import annotations


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
