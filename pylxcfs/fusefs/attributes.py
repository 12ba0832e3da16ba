"""What stat(2) shows of a file. Knows no file."""

from __future__ import annotations

from typing import NamedTuple


class Attributes(NamedTuple):
    """What stat(2) shows, and for how long the kernel may believe it."""

    mode: int
    nlink: int
    size: int
    mtime_ns: int
    valid_ns: int
