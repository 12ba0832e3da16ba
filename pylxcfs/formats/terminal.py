"""Text that others choose, on a terminal or in a log: one line, without what a terminal obeys."""

from __future__ import annotations


def printable(text: str, instead: str = "?") -> str:
    """Return text with `instead` for each control character and each byte that is no text."""
    return "".join([letter if letter.isprintable() else instead for letter in text])
