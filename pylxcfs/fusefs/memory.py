"""The memfd that the keeper holds, which outlives servers: where each of its parts begins.

Behind the handshake (connection.py) are what a server knows of readers and the next one has to
know. Every part may be missing, half written by a server that was killed, or of another version.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

#: survivors.py: texts that are read in pieces past the cache.
SURVIVORS: Final = 4096
#: register.py: newcomers.
REGISTER: Final = 32 << 20
#: sizes.py: what the kernel was told of cached nodes.
SIZES: Final = 40 << 20


def mapped(fd: int, start: int, length: int) -> mmap.mmap:
    """Map a part of the memfd, which is made long enough. Raise OSError."""
    if os.fstat(fd).st_size < start + length:
        os.ftruncate(fd, start + length)
    return mmap.mmap(fd, length, offset=start)
