"""Mounts that are in no mount namespace, for helper processes (helper.py).

A helper's child may be in a container's pid namespace. With CAP_SYS_PTRACE in the initial user
namespace the container opens its /proc/PID/root and cwd and goes up by "..": chroot(2) stops only
the process itself. Above the root of a detached mount there is nothing.

Numbers are those of asm-generic/unistd.h and <linux/mount.h>. Each function raises OSError.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

_FSOPEN: Final = 430
_FSCONFIG: Final = 431
_FSMOUNT: Final = 432

_FSOPEN_CLOEXEC: Final = 1
_FSCONFIG_CMD_CREATE: Final = 6
_FSMOUNT_CLOEXEC: Final = 1
#: MOUNT_ATTR_RDONLY, _NOSUID, _NODEV and _NOEXEC.
_ATTRIBUTES: Final = 1 | 2 | 4 | 8

_libc = ctypes.CDLL(None, use_errno=True)


def empty_directory() -> int:
    """Return a descriptor of an empty directory that nobody can write to (Linux 5.2)."""
    context = _check(_libc.syscall(_FSOPEN, b"tmpfs", _FSOPEN_CLOEXEC))
    try:
        _check(_libc.syscall(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0))
        return _check(_libc.syscall(_FSMOUNT, context, _FSMOUNT_CLOEXEC, _ATTRIBUTES))
    finally:
        os.close(context)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
