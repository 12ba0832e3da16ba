"""Which paths of a container are covered, and where their views are in the mount.

A container's directory below own/ has a name that cannot be guessed; a process in the container's
pid and cgroup namespaces learns it from the links of the mount (tree/own.py). So does a process of
ours that enters these namespaces (asking.py). What it says is not trusted: a container with
CAP_SYS_PTRACE may have told it what to say.
"""

from __future__ import annotations

import atexit
import errno
import functools
import os
from collections.abc import Sequence
from typing import Final, NamedTuple

from pylxcfs.attach import asking, calls
from pylxcfs.errors import SourceError
from pylxcfs.keeper import fusemount
from pylxcfs.sources.helper import HelperProcess
from pylxcfs.sources.kept import Descriptor
from pylxcfs.tree import nodes
from pylxcfs.views import VIEWS

#: Directories that are covered as one, as the mount has a link for each.
PRESSURE: Final = "proc/pressure"
SYSFS: Final = (
    "sys/devices/system/cpu",
    "sys/devices/system/node",
    "sys/devices/system/memory",
)
#: Directories that are covered where the mount has them (--enable-devices).
DEVICES: Final = nodes.DEVICES_OF_SYSFS
#: Bytes of an answer from inside.
_MOST_TEXT: Final = 1 << 16


def paths() -> list[str]:
    """Return everything but DEVICES that can be covered: "proc/meminfo", "proc/pressure"."""
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

    def is_view(self, place: str, path: str) -> bool:
        """Return whether a path on the host is that of a view of `path`."""
        own, separator, rest = place.removeprefix(f"{self.own.mountpoint}/own/").partition("/")
        if place.startswith(f"{self.own.mountpoint}/own/{own}/"):
            return bool(separator) and rest == path
        return self.caller is not None and place == f"{self.caller.mountpoint}/{path}"

    @property
    def devices(self) -> tuple[str, ...]:
        """Return the devices of the mounts."""
        return tuple(mount.device for mount in filter(None, self))


class Asker(HelperProcess):
    """The helper that reads links in a container's namespaces."""

    def __init__(self) -> None:
        # More than its own patience with a container, and than Python on a slow disk.
        super().__init__(asking.__file__, answer_s=5.0, start_s=30.0)

    def links(self, mountpoint: str, pidfd: int, wanted: Sequence[str]) -> list[str]:
        """Return where the mount's links lead paths. Raise OSError."""
        request = b"\0".join(map(os.fsencode, wanted))
        tree = Descriptor(calls.open_tree(mountpoint))
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        with open(reading, "rb", buffering=0) as results:
            try:
                self.ask(request, pidfd, writing, tree.number)
            except SourceError as error:
                raise _as_os_error(error) from None
            finally:
                os.close(writing)
            # It was written by a process in the container's hands, which may keep the pipe open.
            text = results.read(_MOST_TEXT) or b""
        return list(map(os.fsdecode, text.split(b"\0")))


@functools.cache
def _asker() -> Asker:
    asker = Asker()
    atexit.register(asker.close)
    return asker


def _as_os_error(error: SourceError) -> OSError:
    reason = str(error).rpartition(": ")[2]
    if reason.isdecimal() and int(reason) == errno.ETIMEDOUT:
        return TimeoutError(errno.ETIMEDOUT, "a process in it was stopped")
    if reason.isdecimal() and int(reason):
        return OSError(int(reason), os.strerror(int(reason)))
    return OSError(errno.EIO, str(error))


def places(mounts: Mounts, pidfd: int, wanted: Sequence[str]) -> dict[str, str]:
    """Return where the views of a process's container are on the host, as far as they are served.

    By path ("proc/meminfo"). Raise OSError if its namespaces cannot be entered.
    """
    links = _asker().links(mounts.own.mountpoint, pidfd, wanted)
    found = {}
    for path, link in zip(wanted, links, strict=False):
        place = os.path.normpath(os.path.join(mounts.own.mountpoint, link))
        if link and mounts.is_view(place, path):
            found[path] = place
    return found
