"""Parse /sys/devices/.../uevent: what the kernel tells udev about a device.

Printed by uevent_show (drivers/base/core.c), a variable a line:

    MAJOR=231
    MINOR=194
    DEVNAME=infiniband/uverbs2     path of the node below /dev (device_get_devnode)
    DEVMODE=0666

Values are not quoted. A device without a number has no DEVNAME.
"""

from __future__ import annotations


def devname(data: bytes) -> str | None:
    """Return the path of the device's node below /dev; None if the kernel names none."""
    for line in data.split(b"\n"):
        if line.startswith(b"DEVNAME="):
            return line.removeprefix(b"DEVNAME=").decode(errors="replace") or None
    return None
