"""attach, detach, heal and move: what is done to one container.

Each returns an outcome for each path; nothing raises but what a caller has to know: a container
that cannot be entered (OSError) or does not answer (TimeoutError).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from typing import Final

from pylxcfs.attach import mounting, views
from pylxcfs.attach.containers import Container, hosts_mounts
from pylxcfs.attach.mounting import FAILED, LEFT, Outcome
from pylxcfs.attach.views import Mounts
from pylxcfs.formats import mountinfo
from pylxcfs.keeper.fusemount import FSTYPE
from pylxcfs.sources.kept import read_whole

#: The path of a view behind the root of a mount of ours: of the own mount, also of versions that
#: called it by-pidns, or of the caller mount.
_VIEW: Final = re.compile(r"(?:/(?:own|by-pidns)/[^/]+)?/((?:proc|sys)(?:/.*)?)")
#: Seconds to wait for a server that does not know a container yet.
_UNKNOWN_S: Final = 1.0


def attach(
    mounts: Mounts, container: Container, wanted: Sequence[str], *, take_over: bool
) -> list[Outcome]:
    """Cover paths ("proc/meminfo") of a container with its views.

    `take_over`: also where another instance of pylxcfs serves them.
    """
    return _put(mounts, container, {f"/{path}": path for path in wanted}, take_over=take_over)


def detach(container: Container, wanted: Sequence[str]) -> list[Outcome]:
    """Remove our mounts from paths ("proc/meminfo") of a container."""
    return mounting.detach(container.pidfd, [f"/{path}" for path in wanted])


def heal(mounts: Mounts, container: Container) -> list[Outcome]:
    """Replace dead mounts of ours by views of the present ones.

    Wherever they are in the container, which may have the own mount as a whole, too. Raise Gone,
    SourceError as well.
    """
    text = read_whole(f"/proc/{container.pid}/mountinfo")
    wanted: dict[str, str] = {}
    for mount in mountinfo.parse(text):
        if mount.fstype != FSTYPE or mount.device in mounts.devices:
            wanted.pop(mount.mountpoint, None)  # it covers what was there before
            continue
        match = _VIEW.fullmatch(mount.root)
        if match:
            wanted[mount.mountpoint] = match[1]
        elif mount.root == "/" and mount.mountpoint == mounts.own.mountpoint:
            wanted[mount.mountpoint] = ""
    outcomes = _put(mounts, container, wanted, take_over=False) if wanted else []
    return [one for one in outcomes if one.what != LEFT]  # of other instances


def move(mounts: Mounts, container: Container) -> list[Outcome]:
    """Replace what all containers share, or the host's views, by its own.

    A runtime that resolves the links on the host binds the caller mount's files, as containerd does
    for a hostPath volume. Raise Gone, SourceError as well.
    """
    text = read_whole(f"/proc/{container.pid}/mountinfo")
    wanted: dict[str, str] = {}
    for mount in mountinfo.parse(text):
        wanted.pop(mount.mountpoint, None)
        match = _VIEW.fullmatch(mount.root)
        is_callers = mounts.caller is not None and mount.device == mounts.caller.device
        is_hosts = mount.device == mounts.own.device and mount.root.startswith("/own/host/")
        if match and mount.fstype == FSTYPE and (is_callers or is_hosts):
            wanted[mount.mountpoint] = match[1]
    return _put(mounts, container, wanted, take_over=False) if wanted else []


def _put(
    mounts: Mounts, container: Container, wanted: dict[str, str], *, take_over: bool
) -> list[Outcome]:
    """Mount views by their targets; "" is the own mount as a whole."""
    paths = sorted({path for path in wanted.values() if path})
    until = time.monotonic() + _UNKNOWN_S
    places = views.places(mounts, container.pidfd, paths)
    host = f"{mounts.own.mountpoint}/own/host/"
    while any(place.startswith(host) for place in places.values()):
        if time.monotonic() > until:
            why = "the server does not know this container (its log may say why)"
            return [Outcome(target, FAILED, why) for target in wanted]
        time.sleep(0.05)
        places = views.places(mounts, container.pidfd, paths)
    outcomes, sources = [], []
    for target, path in wanted.items():
        place = places.get(path, "") if path else mounts.own.mountpoint
        source = mounts.source(target, place)
        if source is None:
            outcomes.append(Outcome(target, FAILED, "not served: this host has no such file"))
        else:
            sources.append(source)
    return outcomes + mounting.attach(container.pidfd, sources, take_over=take_over)


def is_host(container: Container) -> bool:
    """Return whether a process is in the host's own mount namespace, which is no container."""
    return os.readlink(f"/proc/{container.pid}/ns/mnt") in hosts_mounts()
