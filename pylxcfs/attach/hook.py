"""The OCI hook for `createContainer`: binds views in a container that is being made.

    python3 -ISE hook.py MOUNTPOINT PATH...            PATH: proc/meminfo, sys/devices/system/cpu

That stage alone runs in the container's pid and mount namespaces, and before pivot_root(2): so the
links of MOUNTPOINT lead to the container's own views, and the host's paths can be seen. Of the
state on stdin only `bundle` and `root` are used; `pid` is 1 with runc and 0 with crun.

A hook that fails stops the container. So this one always exits 0, and says on stderr and in syslog
why a file was not bound: of a hook that exits 0, runc and crun drop what it prints. It imports
nothing of pylxcfs, and little else: a container's start waits for it.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import time

_LIMIT_S = 5
_OPEN_TREE, _MOVE_MOUNT, _OPENAT2 = 428, 429, 437  # asm-generic/unistd.h, of every machine
_AT_FDCWD = -100
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_EMPTY_PATHS = 0x04 | 0x40
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS = 0x02, 0x04
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
#: PROC_SUPER_MAGIC, SYSFS_MAGIC, FUSE_SUPER_MAGIC (include/uapi/linux/magic.h).
_COVERED = {"proc": 0x9FA0, "sys": 0x62656572}
_FUSE = 0x65735546

_libc = ctypes.CDLL(None, use_errno=True)


def check(result: int) -> int:
    """Return the result of a system call, or raise OSError."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def root_of(state: dict[str, str]) -> str:
    """Return the path of the container's root filesystem."""
    try:
        if "root" in state:  # crun
            return state["root"]
        with open(os.path.join(state["bundle"], "config.json"), "rb") as file:
            root: str = json.load(file)["root"]["path"]
            return os.path.join(state["bundle"], root)
    except (OSError, ValueError, KeyError, TypeError):
        # In a user namespace the bundle may be closed to us. The container's /proc is the newest.
        places = []
        with open("/proc/self/mountinfo", "rb") as file:
            for line in file:
                here, _, filesystem = line.partition(b" - ")
                place = here.split(b" ")[4]
                if filesystem.startswith(b"proc ") and place.endswith(b"/proc"):
                    places.append(place)
        if not places or places[-1] == b"/proc":
            raise OSError("no root filesystem with a proc was found") from None
        return os.fsdecode(places[-1][: -len(b"/proc")])


def open_inside(root: str, path: str) -> int:
    """Open a path below the root with O_PATH; a symbolic link in it is ELOOP."""
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        how = b"".join(
            number.to_bytes(8, sys.byteorder)
            for number in (
                os.O_PATH | os.O_CLOEXEC,
                0,
                _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS,
            )
        )
        return check(
            _libc.syscall(_OPENAT2, directory, path.encode(), how, ctypes.c_size_t(len(how)))
        )
    finally:
        os.close(directory)


def filesystem_of(descriptor: int) -> int:
    """Return f_type of fstatfs(2)."""
    buffer = ctypes.create_string_buffer(256)
    check(_libc.fstatfs(descriptor, buffer))
    number: int = ctypes.c_long.from_buffer(buffer).value
    return number


def bind(mountpoint: str, root: str, path: str) -> None:
    """Bind one view. Raise OSError."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
    source = os.fsencode(os.path.join(mountpoint, path))
    tree = check(_libc.syscall(_OPEN_TREE, _AT_FDCWD, source, flags))
    try:
        target = open_inside(root, path)
        try:
            found = filesystem_of(target)
            if found == _FUSE:
                # The runtime has bound it from the specification, in a user namespace the host's.
                place = os.fsencode(os.path.join(root, path))
                check(_libc.umount2(place, _MNT_DETACH | _UMOUNT_NOFOLLOW))
                os.close(target)
                target = open_inside(root, path)
                found = filesystem_of(target)
            if found != _COVERED[path.split("/")[0]]:
                raise OSError("another filesystem is mounted there")
            check(_libc.syscall(_MOVE_MOUNT, tree, b"", target, b"", _MOVE_MOUNT_EMPTY_PATHS))
        finally:
            os.close(target)
    finally:
        os.close(tree)


def say(text: str) -> None:
    """Write a line to stderr, which a terminal may show, and to syslog."""
    sys.stderr.write(f"pylxcfs oci-hook: {text}\n")
    import syslog  # hardly any start needs it

    syslog.openlog("pylxcfs", 0, syslog.LOG_DAEMON)
    syslog.syslog(syslog.LOG_WARNING, f"oci-hook: {text}")


def give_up(number: int, frame: object) -> None:
    """Stop in a child that was left behind: the container runs by now."""
    raise TimeoutError("the mount did not answer in time")


def bind_all(mountpoint: str, root: str, paths: list[str], name: str) -> None:
    """Bind what is asked for; say what was not bound."""
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(_LIMIT_S)
    for path in paths:
        try:
            bind(mountpoint, root, path)
        except TimeoutError as error:
            say(f"{name}: {path} and what follows was not bound: {error}")
            return
        except OSError as error:
            say(f"{name}: {path} was not bound: {error}")


def main() -> None:
    """Bind views in a child, and leave it behind if the mount does not answer.

    A process cannot be interrupted while a server has its request.
    """
    mountpoint, *paths = sys.argv[1:]
    name = "a container"
    try:
        state = json.load(sys.stdin)
        name = state.get("id", name)
        root = root_of(state)
    except (OSError, ValueError, AttributeError) as error:
        say(f"{name}: nothing was bound: {error}")
        return
    reader, writer = os.pipe()
    if os.fork() == 0:
        # Without the pipes of the runtime, which waits for their end; it leaves some open.
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.dup2(writer, 2)
        os.closerange(3, 1 << 20)
        bind_all(mountpoint, root, paths, name)
        return
    os.close(writer)
    end = time.monotonic() + _LIMIT_S
    while select.select([reader], [], [], max(0, end - time.monotonic()))[0]:
        said = os.read(reader, 4096)
        if not said:
            return  # the child has ended
        os.write(2, said)
    say(f"{name}: not every file was bound: {mountpoint} does not answer")


if __name__ == "__main__":
    try:
        main()
    finally:
        # Whatever it was: nothing of ours may stop a container.
        failure = sys.exc_info()[1]
        try:
            if failure is not None:
                say(f"nothing more was bound: {failure!r}")
        finally:
            os._exit(0)
