"""The pipe on which a server tells its keeper its state. The other end is in keeper.py."""

from __future__ import annotations

import contextlib
import os
from typing import Final

HEALTHY: Final = b"H"
#: Once, when everything is served.
READY: Final = b"R"
#: The configuration document was read again.
RELOADED: Final = b"L"


def beat(fd: int, byte: bytes) -> None:
    """Write one beat. A full pipe has plenty; without a keeper the server ends by itself."""
    with contextlib.suppress(BlockingIOError, BrokenPipeError):
        os.write(fd, byte)
