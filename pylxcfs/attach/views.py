"""Which paths of a container are covered, and where their views are in the mount.

A container's directory below own/ has a name that cannot be guessed; a process in the container's
pid and cgroup namespaces learns it from the links of the mount (tree/own.py). So does a child of
this process that enters these namespaces, and stays outside of the container's mounts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, NamedTuple

from pylxcfs.attach import calls
from pylxcfs.keeper import fusemount
from pylxcfs.views import VIEWS

#: Directories that are covered as one, as the mount has a link for each.
PRESSURE: Final = "proc/pressure"
SYSFS: Final = (
    "sys/devices/system/cpu",
    "sys/devices/system/node",
    "sys/devices/system/memory",
)


def paths() -> list[str]:
    """Return everything that can be covered: "proc/meminfo", "proc/pressure"."""
    found = dict.fromkeys(
        PRESSURE if view.path.startswith(f"{PRESSURE}/") else view.path for view in VIEWS
    )
    return [*found, *SYSFS]


class Source(NamedTuple):
    """The view of one path, and where it belongs in a container."""

    #: Absolute path in the container's mount namespace.
    target: str
    #: Absolute path on the host.
    place: str
    #: Device ("major:minor") of its mount, and the path in that: as mountinfo shows a bind mount.
    device: str
    root: str
    #: The devices of all mounts of the instance.
    devices: tuple[str, ...]


class Mounts(NamedTuple):
    """Where the own mount and the caller mount are; devices are those of mountinfo."""

    own: fusemount.Mounted
    caller: fusemount.Mounted | None

    @classmethod
    def find(cls, mountpoint: str, caller_mount: str) -> Mounts | None:
        """Return the mounts at these paths; None without an own mount."""
        own, caller = map(fusemount.mounted_at, (mountpoint, caller_mount))
        if own is None or own.fstype != fusemount.FSTYPE:
            return None
        return cls(own, caller if caller and caller.fstype == fusemount.FSTYPE else None)

    def source(self, target: str, place: str) -> Source | None:
        """Return what a path on the host shows, for a path in a container."""
        for mount in filter(None, self):
            if f"{place}/".startswith(f"{mount.mountpoint}/"):
                root = place[len(mount.mountpoint) :] or "/"
                return Source(target, place, mount.device, root, self.devices)
        return None

    @property
    def devices(self) -> tuple[str, ...]:
        """Return the devices of the mounts."""
        return tuple(mount.device for mount in filter(None, self))


def places(mounts: Mounts, pidfd: int, wanted: Sequence[str]) -> dict[str, str]:
    """Return where the views of a process's container are on the host, as far as they are served.

    By path ("proc/meminfo"). Raise OSError if its namespaces cannot be entered.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    with open(reading, "rb") as results:
        child = os.fork()
        if child == 0:
            os.close(reading)
            code = 1
            try:
                calls.setns(pidfd, calls.CLONE_NEWPID | calls.CLONE_NEWCGROUP)
                # The pid namespace is that of the next child.
                inside = os.fork()
                if inside == 0:
                    with open(writing, "wb") as out:
                        out.write(_links(mounts.own.mountpoint, wanted))
                    os._exit(0)
                code = os.waitstatus_to_exitcode(os.waitpid(inside, 0)[1])
            except OSError as error:
                code = error.errno or 1
            finally:
                os._exit(code)
        os.close(writing)
        text = results.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != 0:
        raise OSError(code, os.strerror(code) if code > 0 else "the child was killed")
    return {
        path: os.path.normpath(os.fsdecode(place))
        for path, place in zip(wanted, text.split(b"\0"), strict=False)
        if place
    }


def _links(mountpoint: str, wanted: Sequence[str]) -> bytes:
    """Return where the mount's links lead each path, with a zero byte behind it."""
    found = b""
    for path in wanted:
        words = path.split("/")
        for length in range(2, len(words) + 1):  # "proc" and "sys" are directories
            directory, rest = words[:length], words[length:]
            try:
                target = os.readlink(os.path.join(mountpoint, *directory))
            except OSError:  # a directory, or the host has no such file
                continue
            found += os.fsencode(os.path.join(mountpoint, *directory[:-1], target, *rest))
            break
        found += b"\0"
    return found
