"""The kernel's side of the mounts: /dev/fuse, mount(2), the mount table.

    own mount       at MOUNTPOINT, read-only     never sees OPEN
    caller mount    at RUNTIME_DIR/caller        OPEN with direct I/O

INIT of both is answered here, with the constants of fuse/init.py. Runs inside the keeper, so:
standard library only, and nothing that reads through a mount (it would hang for as long as no
server answers). Knows nothing of servers.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import select
from typing import Final, NamedTuple

from pylxcfs.fuse import init, memory, wire

FSTYPE = "fuse.pylxcfs"
SOURCE = "pylxcfs"

OWN: Final = "own"
CALLER: Final = "caller"

_MS_RDONLY = 1
_MS_NOSUID = 2
_MS_NODEV = 4
_MS_NOEXEC = 8
_MNT_DETACH = 2
#: Flags of mount(2). The caller mount is writable for the triggers of proc/pressure.
_FLAGS: Final = {
    OWN: _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC,
    CALLER: _MS_NOSUID | _MS_NODEV | _MS_NOEXEC,
}
_INIT: Final = {OWN: init.OWN, CALLER: init.CALLER}
#: The kernel refuses smaller buffers (FUSE_MIN_READ_BUFFER).
_READ_BUFFER = 8192

libc = ctypes.CDLL(None, use_errno=True)


class Mounted(NamedTuple):
    """One line of mountinfo; each FUSE connection has a device (major:minor)."""

    device: str
    mountpoint: str
    fstype: str


class Mount(NamedTuple):
    """A mount of ours: its connection, and the memfd that outlives servers."""

    kind: str
    mountpoint: str
    connection: int
    memory: int

    @property
    def descriptors(self) -> dict[str, int]:
        """Return the descriptors by their names in the fd store."""
        return {f"pylxcfs-{self.kind}": self.connection, f"pylxcfs-{self.kind}-memory": self.memory}

    def is_connected(self) -> bool:
        """Tell whether the connection is alive: neither aborted nor unmounted."""
        return is_connected(self.connection)

    def is_mounted(self) -> bool:
        """Tell whether the mount table has it, covered or not."""
        device = memory.device_of(self.memory, self.kind)
        return Mounted(device or "", self.mountpoint, FSTYPE) in mounts()

    def is_usable(self) -> bool:
        """Tell whether it is alive, mounted, and of this version."""
        try:
            memory.read(self.memory)
        except (OSError, ValueError):
            return False
        return self.is_connected() and self.is_mounted()

    def detach(self) -> None:
        """Unmount it lazily, if it is the uppermost mount at its mountpoint."""
        mounted = mounted_at(self.mountpoint)
        if mounted and mounted.device == memory.device_of(self.memory, self.kind):
            detach(self.mountpoint)

    def close(self) -> None:
        """Close the descriptors; without another holder that ends the connection."""
        os.close(self.connection)
        os.close(self.memory)


def make(kind: str, mountpoint: str) -> Mount:
    """Mount at `mountpoint` and answer INIT. Raise OSError."""
    connection = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        # default_permissions: open(2) then asks for attributes that are old, so sendfile(2) and
        # mmap(2) get fresh pages as well.
        data = (
            f"fd={connection},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
        )
        target = os.fsencode(mountpoint)
        flags = ctypes.c_ulong(_FLAGS[kind])
        if libc.mount(SOURCE.encode(), target, FSTYPE.encode(), flags, data.encode()) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), mountpoint)
        try:
            # The kernel's first request is there as soon as it is mounted.
            offer = init.parse(os.read(connection, _READ_BUFFER))
            os.write(connection, init.answer(offer, _INIT[kind]))
            mounted = mounted_at(mountpoint)
            device = mounted.device if mounted else "0:0"
            return Mount(kind, mountpoint, connection, memory.make(kind, device, offer.can_resend))
        except ValueError as error:
            detach(mountpoint)
            raise OSError(errno.EPROTO, str(error)) from error
        except OSError:
            detach(mountpoint)
            raise
    except OSError:
        os.close(connection)
        raise


def parse_mountinfo(text: str) -> list[Mounted]:
    """Read the lines of mountinfo, in the order of mounting."""
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
    """Return the uppermost mount at a path, without a request to it."""
    for mount in reversed(mounts()):
        if mount.mountpoint == mountpoint:
            return mount
    return None


def detach(mountpoint: str) -> bool:
    """Unmount lazily what is uppermost; False if nothing is mounted there."""
    if libc.umount2(os.fsencode(mountpoint), _MNT_DETACH) == 0:
        return True
    error = ctypes.get_errno()
    if error in (errno.EINVAL, errno.ENOENT):
        return False
    raise OSError(error, os.strerror(error), mountpoint)


def is_connected(connection: int) -> bool:
    """Tell whether the connection of this /dev/fuse descriptor is alive."""
    poller = select.poll()
    poller.register(connection, 0)
    return not poller.poll(0)


def resend(connection: int) -> None:
    """Make the kernel hand out again what was not answered."""
    with contextlib.suppress(OSError):  # before Linux 6.9, or the connection has ended
        os.write(connection, wire.NOTIFY_RESEND)


def device_of_previous(memfd: int) -> str | None:
    """Return the device in the name of the previous version's memfd."""
    match = re.match(r"/memfd:pylxcfs-init-(\d+:\d+)", os.readlink(f"/proc/self/fd/{memfd}"))
    return match[1] if match else None


def _unescape(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)
