"""The memfd that belongs to a connection and outlives servers: its first page.

The keeper writes the page when it mounts: what the kernel can do, and a secret. Behind it is what
one server leaves to the next (store.py). Standard library only.
"""

from __future__ import annotations

import os
import re
import struct
from typing import Final, NamedTuple

#: Magic with a version of the layout, 1 if the kernel can resend, the secret.
_HEADER: Final = struct.Struct("=8sI4x32s")
_MAGIC: Final = b"pylxcfs2"
#: Where the servers' part begins.
STORE: Final = 4096


class Header(NamedTuple):
    """The keeper's page."""

    #: Whether the kernel hands out again what a killed server had taken.
    can_resend: bool
    #: Key of the MACs in names and generations of nodes; of the life of the mount.
    secret: bytes


def make(kind: str, device: str, can_resend: bool) -> int:
    """Make the memfd of the connection `kind` ("own", "caller") mounted as `device` (MAJOR:MINOR).

    The name is where the device can be kept: it follows the memfd through systemd's fd store and
    through sockets.
    """
    fd = os.memfd_create(f"pylxcfs-{kind}-{device}", os.MFD_CLOEXEC)
    os.pwrite(fd, _HEADER.pack(_MAGIC, can_resend, os.urandom(32)), 0)
    return fd


def read(fd: int) -> Header:
    """Return the keeper's page. Raise ValueError if it is of another version."""
    data = os.pread(fd, _HEADER.size, 0)
    if len(data) < _HEADER.size or not data.startswith(_MAGIC):
        raise ValueError("the connection's memory is of another version of pylxcfs")
    _, can_resend, secret = _HEADER.unpack(data)
    return Header(bool(can_resend), secret)


def device_of(fd: int, kind: str) -> str | None:
    """Return the device that `make` was told; None if `fd` is another file."""
    match = re.match(rf"/memfd:pylxcfs-{kind}-(\d+:\d+)", os.readlink(f"/proc/self/fd/{fd}"))
    return match[1] if match else None
