"""Connections of FUSE, as root of a host reaches them: fusectl, wherever it is mounted."""

from __future__ import annotations

import subprocess

#: In a mount namespace of its own, so that the host keeps its mounts.
_ABORT = (
    'mount -t fusectl none /sys/fs/fuse/connections && echo 1 >"/sys/fs/fuse/connections/$0/abort"'
)


def abort(device: str) -> None:
    """End a connection, by the number of its device as mountinfo has it ("0:42")."""
    minor = device.partition(":")[2]
    command = ["unshare", "--mount", "sh", "-c", _ABORT, minor]
    subprocess.run(command, check=True, timeout=60)
