"""The system calls of the mount API that Python does not have. Each raises OSError.

Numbers are those of asm-generic/unistd.h, which every machine has for calls since 2019, and of
<linux/mount.h>. Knows no path and no file of ours.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Final

from pylxcfs.sources import detached

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWPID: Final = 0x20000000

_MOVE_MOUNT: Final = 429

_MOVE_MOUNT_F_EMPTY_PATH: Final = 0x04
_MOVE_MOUNT_T_EMPTY_PATH: Final = 0x40
_MOVE_MOUNT_BENEATH: Final = 0x200
_MNT_DETACH: Final = 2
_MS_PRIVATE: Final = 1 << 18

#: struct statfs begins with f_type, a long.
_STATFS: Final = struct.Struct("@l")

_libc = ctypes.CDLL(None, use_errno=True)


def setns(descriptor: int, kinds: int) -> None:
    """Enter namespaces: of a process, by its pidfd (Linux 5.8), or the one of a file."""
    _check(_libc.setns(descriptor, kinds))


def open_tree(path: str) -> int:
    """Return a detached copy of the mount that has `path`, with that as its root (Linux 5.2)."""
    return detached.clone(path)


def make_private(tree: int) -> None:
    """Let no mount event of others reach a detached copy (mount_setattr, Linux 5.12)."""
    detached.set_attributes(tree, propagation=_MS_PRIVATE)


def move_mount(tree: int, target: int, *, beneath: bool = False) -> None:
    """Mount a detached copy at an open file, or beneath the mount there (Linux 6.5)."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    flags |= _MOVE_MOUNT_BENEATH if beneath else 0
    _check(_libc.syscall(_MOVE_MOUNT, tree, b"", target, b"", flags))


def open_path(path: str) -> int:
    """Open an absolute path with O_PATH; a symbolic link in it is ENOTDIR or ELOOP.

    Without openat2(2): under RestrictSUIDSGID= of the unit that is ENOSYS. Asks no filesystem for
    the attributes of what it opens, which may hang.
    """
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    found = os.open("/", flags)
    try:
        words = [word for word in path.split("/") if word]
        for i, word in enumerate(words):
            if word in (".", ".."):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
            kind = os.O_DIRECTORY if words[i + 1 :] else 0  # of a link that is ENOTDIR
            below = os.open(word, flags | kind, dir_fd=found)
            os.close(found)
            found = below
        _refuse_link(found, path)
    except BaseException:
        os.close(found)
        raise
    return found


def _refuse_link(descriptor: int, path: str) -> None:
    try:
        os.readlink("", dir_fd=descriptor)
    except OSError:
        return
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def filesystem_of(descriptor: int) -> int:
    """Return f_type of fstatfs(2)."""
    buffer = ctypes.create_string_buffer(256)
    _check(_libc.fstatfs(descriptor, buffer))
    number: int = _STATFS.unpack_from(buffer)[0]
    return number


def detach(descriptor: int) -> None:
    """Unmount lazily the mount that an open file is the root of; the working directory is /proc.

    By the descriptor: a path may lead to another mount by now.
    """
    _check(_libc.umount2(b"self/fd/%d" % descriptor, _MNT_DETACH))


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
