"""Checks of a directory before something is mounted on it.

Dead mounts of ours are detached. No request goes to a mount from this process: where a server
hangs, its sender would hang, too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal

from pylxcfs.errors import MountpointError
from pylxcfs.keeper import child, fusemount

_PROBE_MS = 2000
_MAX_LINKS = 40


def resolve(path: str) -> str:
    """Return the path without symlinks, without a request to a mount."""
    for _ in range(_MAX_LINKS):
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        try:
            path = os.path.join(os.path.dirname(path), os.readlink(path))
        except OSError:
            return os.path.normpath(path)
    raise MountpointError(f"{path} is a loop of symbolic links", "name a directory")


def is_ours(path: str) -> bool:
    """Tell whether a mount of pylxcfs, alive or dead, is uppermost."""
    mounted = fusemount.mounted_at(path)
    return mounted is not None and mounted.fstype == fusemount.FSTYPE


def clean_dead(path: str) -> list[str]:
    """Unmount dead mounts of ours at `path`; return their devices."""
    devices = []
    while (mounted := fusemount.mounted_at(path)) and mounted.fstype == fusemount.FSTYPE:
        if _is_alive(path):
            raise MountpointError(
                f"{path} has pylxcfs mounted already", f"end it first: pylxcfs unmount {path}"
            )
        fusemount.detach(path)
        devices.append(mounted.device)
    return devices


def check(path: str, *, may_have_files: bool) -> None:
    """Raise MountpointError unless `path` is a directory that may be mounted on."""
    try:
        entries = os.listdir(path)
    except FileNotFoundError:
        raise MountpointError(f"{path} does not exist", f"make it: mkdir -p {path}") from None
    except NotADirectoryError:
        raise MountpointError(f"{path} is not a directory", "name a directory") from None
    except OSError as error:
        dead = error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
        raise MountpointError(
            f"{path} cannot be used: {error.strerror}",
            f"clean it: umount -l {path}" if dead else "name another directory",
        ) from error
    if entries and not may_have_files:
        raise MountpointError(
            f"{path} is not empty", "name an empty directory, or add -o nonempty to cover its files"
        )


def namespaces_holding(devices: list[str]) -> int:
    """Count other mount namespaces that have files of these devices."""
    ours = os.stat("/proc/self/ns/mnt").st_ino
    seen = {ours}
    holding = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it ended
            namespace = os.stat(f"/proc/{pid}/ns/mnt").st_ino
            if namespace in seen:
                continue
            mounts = fusemount.mounts(pid)
            seen.add(namespace)
            if any(mount.device in devices for mount in mounts):
                holding += 1
    return holding


def _is_alive(path: str) -> bool:
    """Send a request from a child; no answer counts as alive."""
    prober = child.fork(lambda: _probe(path))
    poller = select.poll()
    poller.register(prober.pidfd, select.POLLIN)
    if not poller.poll(_PROBE_MS):
        prober.send(signal.SIGKILL)
        return True  # not reaped: it cannot end before it is answered
    return prober.reap() == 0


def _probe(path: str) -> int:
    try:
        os.statvfs(path)  # never answered from a cache
    except OSError as error:
        return 1 if error.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.ECONNREFUSED) else 0
    return 0
