"""Which node each file of a container is bound to, told from its table of mounts alone.

    own         the own mount, in the directory of this container
    caller      the caller mount: each reader gets its own values, without the page cache
    host        the own mount's directory of the host: the host's values
    foreign     the directory of another container
    dead        a mount of pylxcfs that nobody serves: reads fail with ENOTCONN
    other       another instance of pylxcfs
    lxcfs       C LXCFS
    none        nothing of the kind: the kernel's file

A mount is dead where no process of pylxcfs (and not systemd, which keeps descriptors for the next
start) holds its connection. Nothing is asked of the mount: that could hang.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import psutil

from pylxcfs.attach import views
from pylxcfs.formats.mountinfo import Mount
from pylxcfs.keeper.fusemount import FSTYPE
from pylxcfs.monitor import instance

OWN: Final = "own"
CALLER: Final = "caller"
HOST: Final = "host"
FOREIGN: Final = "foreign"
DEAD: Final = "dead"
OTHER: Final = "other"
LXCFS: Final = "lxcfs"
NONE: Final = "none"
KINDS: Final = (OWN, CALLER, HOST, FOREIGN, DEAD, OTHER, LXCFS, NONE)

_LXCFS_TYPE: Final = "fuse.lxcfs"
#: own/KEY/ of a view behind the root of an own mount; by-pidns is what older versions called it.
_VIEW: Final = re.compile(r"/(?:own|by-pidns)/([^/]+)/")
_PIDNS: Final = re.compile(r"(\d+)[.-]")


class Devices(NamedTuple):
    """The devices ("0:57") of mounts: of the instance that is asked about, and of all that live."""

    own: str | None
    caller: str | None
    alive: frozenset[str]


def devices(mounts: Iterable[dict[str, object]]) -> Devices:
    """Return the devices; `mounts` are those of instance.gather."""
    by_kind = {str(mount["kind"]): mount["device"] for mount in mounts if mount["device"]}
    own, caller = (str(by_kind[kind]) if kind in by_kind else None for kind in (OWN, CALLER))
    return Devices(own, caller, _alive())


def _alive() -> frozenset[str]:
    """Return the devices of all connections that a keeper, a holder or systemd has."""
    found: set[str] = set()
    for process in psutil.process_iter(["name"]):
        if process.pid == 1 or str(process.info["name"]).startswith("pylxcfs-"):
            found |= instance.devices_of(process.pid)
    return frozenset(found)


def bound(mounts: Sequence[Mount], pidns: int, known: Devices) -> dict[str, str]:
    """Return what each path that can be covered ("/proc/meminfo") is bound to in a container."""
    top: dict[str, Mount] = {}
    for mount in mounts:
        top[mount.mountpoint] = mount  # the last one covers those before
    found = {f"/{path}": NONE for path in views.paths()}
    for target, mount in top.items():
        if target.startswith(("/proc/", "/sys/")) and not target.startswith("/sys/fs/cgroup"):
            kind = _kind(mount, pidns, known)
            if kind is not None:
                found[target] = kind
                parent = target.rpartition("/")[0]
                if found.get(parent) == NONE:  # /proc/pressure: its files are bound one by one
                    del found[parent]
    return found


def _kind(mount: Mount, pidns: int, known: Devices) -> str | None:
    if mount.fstype == _LXCFS_TYPE:
        return LXCFS
    if mount.fstype != FSTYPE:
        return None
    if mount.device not in known.alive:
        return DEAD
    if mount.device == known.caller:
        return CALLER
    if mount.device != known.own:
        return OTHER
    view = _VIEW.match(mount.root)
    if view is None or view[1] == HOST:
        return HOST
    number = _PIDNS.match(view[1])
    return OWN if number and int(number[1]) == pidns else FOREIGN
