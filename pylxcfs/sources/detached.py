"""Mounts that are in no mount namespace: for helper processes (helper.py), and to be moved.

A helper's child may be in a container's pid namespace. With CAP_SYS_PTRACE in the initial user
namespace the container opens its /proc/PID/root and cwd and goes up by "..": chroot(2) stops only
the process itself. Above the root of a detached mount there is nothing. It also opens its
/proc/PID/exe, which it could write to when nobody runs that file anymore: that is in a read-only
mount.

Numbers are those of asm-generic/unistd.h and <linux/mount.h>. Each function raises OSError.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

_OPEN_TREE: Final = 428
_FSOPEN: Final = 430
_FSCONFIG: Final = 431
_FSMOUNT: Final = 432
_MOUNT_SETATTR: Final = 442

_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_AT_RECURSIVE: Final = 0x8000
_OPEN_TREE_CLONE: Final = 1
_FSOPEN_CLOEXEC: Final = 1
_FSCONFIG_CMD_CREATE: Final = 6
_FSMOUNT_CLOEXEC: Final = 1
_MOUNT_ATTR_RDONLY: Final = 1
#: That, and MOUNT_ATTR_NOSUID, _NODEV and _NOEXEC.
_ATTRIBUTES: Final = _MOUNT_ATTR_RDONLY | 2 | 4 | 8
#: struct mount_attr: attr_set, attr_clr, propagation, userns_fd.
_MOUNT_ATTR: Final = struct.Struct("=QQQQ")

_libc = ctypes.CDLL(None, use_errno=True)


def empty_directory() -> int:
    """Return a descriptor of an empty directory that nobody can write to (Linux 5.2)."""
    context = _check(_libc.syscall(_FSOPEN, b"tmpfs", _FSOPEN_CLOEXEC))
    try:
        _check(_libc.syscall(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0))
        return _check(_libc.syscall(_FSMOUNT, context, _FSMOUNT_CLOEXEC, _ATTRIBUTES))
    finally:
        os.close(context)


def read_only(path: str) -> int:
    """Return a descriptor of a read-only copy of a directory and its mounts (Linux 5.12)."""
    tree = clone(path, recursive=True)
    try:
        set_attributes(tree, _MOUNT_ATTR_RDONLY, recursive=True)
    except BaseException:
        os.close(tree)
        raise
    return tree


def clone(path: str, *, recursive: bool = False) -> int:
    """Return a copy of the mount that has `path`, with that as its root (Linux 5.2).

    `recursive`: with the mounts below.
    """
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    return _check(_libc.syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags))


def set_attributes(
    tree: int, attributes: int = 0, propagation: int = 0, *, recursive: bool = False
) -> None:
    """Set MOUNT_ATTR_* and the propagation (MS_*, 0: as it is) of a copy (Linux 5.12)."""
    packed = _MOUNT_ATTR.pack(attributes, 0, propagation, 0)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    _check(_libc.syscall(_MOUNT_SETATTR, tree, b"", flags, packed, ctypes.c_size_t(len(packed))))


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
