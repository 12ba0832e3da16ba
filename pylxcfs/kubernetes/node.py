"""A node's disk, mount table and cgroups, as the node agent finds and leaves them.

Nothing here sends a request to a mount from this process, so no mount without a server can hang it:
stale mounts are seen in the mount table, and what is below the mountpoint is reached by a copy of
its parent's mount, in which nothing is mounted on it. Who serves the mounts is not known here.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import signal
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Final

from pylxcfs.errors import HostError
from pylxcfs.formats import mountinfo
from pylxcfs.keeper import child, fusemount
from pylxcfs.sources.kept import read_whole

_OPEN_TREE: Final = 428  # asm-generic/unistd.h, of every machine
_OPEN_TREE_CLONE: Final = 1
_AT_FDCWD: Final = -100
#: Seconds in which processes that were told to end have ended.
_ENDING_S: Final = 5.0
_CLONE_NEWNS: Final = 0x20000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 0x1000, 0x4000, 0x40000
_MNT_DETACH: Final = 2
#: Directories of an image that may be mounted on; else one is made.
_BASES: Final = ("/mnt", "/media", "/srv")
_ENDED: Final = 2  # exit code of a prober that could not read


# Stale mounts


def clear(places: Iterable[str]) -> int:
    """Detach all mounts of ours at these places; return how many there were."""
    count = 0
    for place in places:
        while (mounted := fusemount.mounted_at(place)) and mounted.fstype == fusemount.FSTYPE:
            fusemount.detach(place)
            count += 1
    return count


# The skeleton: links that lead to the node's own files while nothing is mounted


def make_skeleton(mountpoint: str, paths: Sequence[str]) -> list[str]:
    """Make a link for each path ("proc/meminfo"); return those whose place is taken.

    An empty directory is replaced: a runtime has made it for a pod while nothing was mounted.
    Raise HostError.
    """
    taken = []
    with _below(mountpoint) as top:
        for path in paths:
            *around, name = path.split("/")
            with _directory(top, around) as directory:
                if not _link(directory, name, f"/{path}"):
                    taken.append(path)
    return taken


def remove_skeleton(mountpoint: str, paths: Sequence[str]) -> None:
    """Remove the links, and directories that are empty then. Raise HostError."""
    with _below(mountpoint) as top:
        for path in paths:
            with contextlib.suppress(OSError):
                if os.readlink(path, dir_fd=top) == f"/{path}":
                    os.unlink(path, dir_fd=top)
            while path := os.path.dirname(path):
                with contextlib.suppress(OSError):  # it has other files
                    os.rmdir(path, dir_fd=top)


@contextlib.contextmanager
def _below(mountpoint: str) -> Iterator[int]:
    """Open the directory that the mount covers, which is made if it is not there."""
    parent, name = os.path.split(mountpoint)
    tree = fusemount.libc.syscall(
        *(_OPEN_TREE, _AT_FDCWD, os.fsencode(parent), _OPEN_TREE_CLONE | os.O_CLOEXEC)
    )
    if tree < 0:
        number = ctypes.get_errno()
        raise HostError(
            f"the directory {parent} cannot be opened: {os.strerror(number)}",
            "make it, and run this as root (in a pod: privileged)",
        )
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=tree)
        directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree)
    except OSError as error:
        raise HostError(
            f"the directory {mountpoint} cannot be used: {error.strerror}",
            "name another mountpoint",
        ) from error
    finally:
        os.close(tree)
    try:
        yield directory
    except OSError as error:
        raise HostError(
            f"links below {mountpoint} cannot be made: {error.strerror}", "make it writable"
        ) from error
    finally:
        os.close(directory)


@contextlib.contextmanager
def _directory(top: int, names: Sequence[str]) -> Iterator[int]:
    """Open a directory below another, which is made."""
    number = os.dup(top)
    try:
        for name in names:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=number)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            inner = os.open(name, flags, dir_fd=number)
            os.close(number)
            number = inner
        yield number
    finally:
        os.close(number)


def _link(directory: int, name: str, target: str) -> bool:
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        os.symlink(target, name, dir_fd=directory)
        return True
    if stat.S_ISLNK(found.st_mode):
        return os.readlink(name, dir_fd=directory) == target
    try:
        os.rmdir(name, dir_fd=directory)
    except OSError:
        return False  # a file, or a directory with files
    os.symlink(target, name, dir_fd=directory)
    return True


# Cgroups


def leave_cgroups(name: str) -> list[str]:
    """Move this process into a cgroup of its own at the top of each hierarchy.

    Return what could not be done: the process ends with its pod then.
    """
    problems = []
    tops: dict[str, str] = {}
    parts = set()
    for mount in mountinfo.parse(read_whole("/proc/self/mountinfo")):
        if mount.fstype in ("cgroup", "cgroup2"):
            parts.add(mount.device)
            if mount.root == "/":
                tops[mount.device] = mount.mountpoint
    if parts - tops.keys():
        problems.append("a hierarchy is not mounted as a whole: mount the node's /sys/fs/cgroup")
    if not parts:
        problems.append("no hierarchy is mounted: mount the node's /sys/fs/cgroup")
    for top in tops.values():
        try:
            _enter(top, name)
        except OSError as error:
            problems.append(f"{top}: {error.strerror}")
    return problems


def remove_cgroups(name: str) -> None:
    """Remove these cgroups, where they are empty; wait for processes that are ending."""
    until = time.monotonic() + _ENDING_S
    for mount in mountinfo.parse(read_whole("/proc/self/mountinfo")):
        if mount.fstype in ("cgroup", "cgroup2") and mount.root == "/":
            while _is_busy(os.path.join(mount.mountpoint, name)) and time.monotonic() < until:
                time.sleep(0.05)


def _is_busy(cgroup: str) -> bool:
    """Remove a cgroup; return whether processes in it keep it."""
    try:
        os.rmdir(cgroup)
    except OSError as error:
        return error.errno == errno.EBUSY
    return False


def _enter(top: str, name: str) -> None:
    directory = os.path.join(top, name)
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory)
    for file in ("cpuset.cpus", "cpuset.mems"):  # v1: a new one has none, and takes no process
        with contextlib.suppress(FileNotFoundError):
            if not read_file(os.path.join(directory, file)).strip():
                values = read_file(os.path.join(top, file))
                if values.strip():
                    write_file(os.path.join(directory, file), values)
    write_file(os.path.join(directory, "cgroup.procs"), b"0")


def read_file(path: str) -> bytes:
    """Return a small file."""
    with open(path, "rb") as file:
        return file.read()


def write_file(path: str, content: bytes) -> None:
    """Write to a file of the kernel."""
    with open(path, "wb", buffering=0) as file:
        file.write(content)


# A root filesystem that outlives the pod's


def leave_root() -> None:
    """Give this process a root whose mountpoints no runtime can remove.

    A runtime that removes a container's files takes along what is mounted on them, also in other
    mount namespaces: /proc, the cgroups and the directories of the node. So the process gets a
    tmpfs as its root, with everything of the pod bound into it; the sharing of mounts with the
    node stays. Raise OSError.
    """
    libc = fusemount.libc
    pivot_root = getattr(libc, "pivot_root", None)
    if pivot_root is None:
        raise OSError(errno.EOPNOTSUPP, "the image has no glibc")
    base = next(filter(_is_plain, _BASES), None) or tempfile.mkdtemp(prefix=".pylxcfs-", dir="/")
    _check(libc.unshare(_CLONE_NEWNS))
    _mount("none", "/", None, _MS_PRIVATE)
    _mount("pylxcfs", base, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755")
    mountpoints = {mounted.mountpoint for mounted in fusemount.mounts()}
    _bind_all("", base, {mountpoint for mountpoint in mountpoints if mountpoint != base})
    old = os.path.join(base, ".old")
    os.mkdir(old)
    _check(pivot_root(os.fsencode(base), os.fsencode(old)))
    os.chdir("/")
    # Else the node's mounts would go with the old root.
    _mount("none", "/.old", None, _MS_PRIVATE | _MS_REC)
    _check(libc.umount2(b"/.old", _MNT_DETACH))
    os.rmdir("/.old")


def _is_plain(path: str) -> bool:
    return os.path.isdir(path) and not any(
        mounted.mountpoint == path or mounted.mountpoint.startswith(f"{path}/")
        for mounted in fusemount.mounts()
    )


def _bind_all(directory: str, base: str, mountpoints: set[str]) -> None:
    """Bind what is in a directory below `base`; make directories that lead to mountpoints."""
    with os.scandir(directory or "/") as entries:
        for entry in entries:
            here = f"{directory}/{entry.name}"
            there = base + here
            if here == base:
                continue
            if entry.is_symlink():
                os.symlink(os.readlink(here), there)
            elif entry.is_dir(follow_symlinks=False):
                os.mkdir(there)
                leads = any(place.startswith(f"{here}/") for place in mountpoints)
                if leads and here not in mountpoints:
                    _bind_all(here, base, mountpoints)
                else:
                    _mount(here, there, None, _MS_BIND | _MS_REC)
            elif entry.is_file(follow_symlinks=False):
                os.close(os.open(there, os.O_CREAT | os.O_CLOEXEC, 0o644))
                _mount(here, there, None, _MS_BIND)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    words = [os.fsencode(word) if word else None for word in (source, target, kind, data)]
    _check(fusemount.libc.mount(*words[:3], ctypes.c_ulong(flags), words[3]))


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


# Liveness and readiness


def probe(places: Sequence[tuple[str, str]], timeout_s: float) -> str | None:
    """Read a file below each mount; return what is wrong, None if both answer.

    `places`: mountpoints, and the path of a file below each. A child reads: it may hang.
    """
    for place, _ in places:
        mounted = fusemount.mounted_at(place)
        if mounted is None or mounted.fstype != fusemount.FSTYPE:
            return f"nothing of pylxcfs is mounted at {place}"
    for place, name in places:
        path = os.path.join(place, name)
        prober = child.fork(partial(_read, path))
        poller = select.poll()
        poller.register(prober.pidfd, select.POLLIN)
        if not poller.poll(timeout_s * 1000):
            prober.send(signal.SIGKILL)  # not reaped: it cannot end before it is answered
            return f"{path} does not answer within {timeout_s:g} s"
        if prober.reap() != 0:
            return f"{path} cannot be read"
    return None


def _read(path: str) -> int:
    try:
        return 0 if read_file(path).strip() else _ENDED
    except OSError:
        return _ENDED
