"""The kernel's side of the mount: /dev/fuse, mount(2), umount2(2), and what is mounted where.

Runs inside the keeper, so: standard library only, and nothing that reads through the mount
(it would hang for as long as no server answers). Knows nothing of servers.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import select
import struct
from typing import NamedTuple

FSTYPE = "fuse.pylxcfs"
SOURCE = "pylxcfs"

_MS_NOSUID = 2
_MS_NODEV = 4
_MNT_DETACH = 2
_FUSE_INIT = 26
_IN_HEADER = struct.Struct("=IIQ")  # len, opcode, unique: the start of fuse_in_header
#: The kernel refuses smaller buffers (FUSE_MIN_READ_BUFFER).
_READ_BUFFER = 8192

libc = ctypes.CDLL(None, use_errno=True)


class Mounted(NamedTuple):
    """One line of mountinfo. `device` is major:minor, of its own for each FUSE connection."""

    device: str
    mountpoint: str
    fstype: str


def parse_mountinfo(text: str) -> list[Mounted]:
    """Read mountinfo's lines in the order of mounting; skip what is not one."""
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        left, right = before.split(" "), after.split(" ")
        if len(left) >= 6:
            found.append(Mounted(left[2], _unescape(left[4]), right[0]))
    return found


def mounts(pid: str = "self") -> list[Mounted]:
    """Return what is mounted in the process's mount namespace."""
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse_mountinfo(file.read())


def mounted_at(mountpoint: str) -> Mounted | None:
    """Return the uppermost mount at exactly this path, or None. Asks the mount nothing."""
    for mount in reversed(mounts()):
        if mount.mountpoint == mountpoint:
            return mount
    return None


def mount(mountpoint: str) -> int:
    """Open /dev/fuse, mount it at `mountpoint` for everybody, and return its descriptor."""
    connection = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    data = f"fd={connection},rootmode=40000,user_id=0,group_id=0,allow_other"
    target = os.fsencode(mountpoint)
    flags = ctypes.c_ulong(_MS_NOSUID | _MS_NODEV)
    if libc.mount(SOURCE.encode(), target, FSTYPE.encode(), flags, data.encode()) != 0:
        error = ctypes.get_errno()
        os.close(connection)
        raise OSError(error, os.strerror(error), mountpoint)
    return connection


def detach(mountpoint: str) -> bool:
    """Unmount lazily what is uppermost at `mountpoint`; False if nothing is mounted there."""
    if libc.umount2(os.fsencode(mountpoint), _MNT_DETACH) == 0:
        return True
    error = ctypes.get_errno()
    if error in (errno.EINVAL, errno.ENOENT):
        return False
    raise OSError(error, os.strerror(error), mountpoint)


def read_init(connection: int) -> bytes:
    """Read the kernel's first request, FUSE_INIT, which is there as soon as it is mounted."""
    request = os.read(connection, _READ_BUFFER)
    length, opcode, _ = _IN_HEADER.unpack_from(request)
    if opcode != _FUSE_INIT or length != len(request):
        raise OSError(errno.EPROTO, f"the kernel's first request is {opcode}, not FUSE_INIT")
    return request


def is_connected(connection: int) -> bool:
    """Tell whether the connection of this /dev/fuse descriptor still has its mount."""
    poller = select.poll()
    poller.register(connection, 0)
    return not poller.poll(0)


def remember(request: bytes, device: str) -> int:
    """Return a memfd with the INIT request, named after the mount's device (see `device_of`)."""
    init = os.memfd_create(f"pylxcfs-init-{device}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(init, request)
    return init


def device_of(init: int) -> str | None:
    """Return the device that `remember` was told; None if it is another file or empty.

    The name is where it can be kept: it follows the memfd through systemd's fd store and
    through sockets, while the content belongs to the servers.
    """
    match = re.match(r"/memfd:pylxcfs-init-(\d+:\d+)", os.readlink(f"/proc/self/fd/{init}"))
    return match[1] if match and os.fstat(init).st_size >= _IN_HEADER.size else None


def is_mount_of(init: int, mountpoint: str) -> bool:
    """Tell whether what is mounted at `mountpoint` is the mount that `init` was made for."""
    mounted = mounted_at(mountpoint)
    return mounted is not None and mounted.fstype == FSTYPE and mounted.device == device_of(init)


def _unescape(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)
