"""The pipe on which a server tells its keeper that it lives. The other end is in keeper.py."""

from __future__ import annotations

import contextlib
import os
from typing import Final

HEALTHY: Final = b"H"
#: Once, when everything is served.
READY: Final = b"R"


def beat(fd: int, byte: bytes) -> None:
    """Write one beat. A full pipe has plenty; without a keeper the server ends by itself."""
    with contextlib.suppress(BlockingIOError, BrokenPipeError):
        os.write(fd, byte)
