"""Features of the kernel, each tested by using it; nothing is left behind.

A test says True, False, or None where it may not be made (no root, a seccomp filter). FUSE is
tested in a mount namespace that ends with the child that made it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import signal
import tempfile
from collections.abc import Callable
from typing import Final

from pylxcfs.attach import calls
from pylxcfs.fuse import init
from pylxcfs.keeper import child, fusemount
from pylxcfs.sources.initpid import NS_GET_TGID_FROM_PIDNS

#: Seconds for the test of FUSE, which takes milliseconds.
_PATIENCE_S: Final = 5.0
_MS_REC_PRIVATE: Final = 1 << 14 | 1 << 18
_READ_BUFFER: Final = 8192
_WORKS, _WORKS_WITHOUT_RESEND, _FAILS = 0, 1, 2
_EPERM_EXIT: Final = 3


class Fuse:
    """What a mount of FUSE has shown. `works` None: it could not be tried."""

    def __init__(self, works: bool | None, resends: bool | None) -> None:
        self.works = works
        self.resends = resends


def fuse() -> Fuse:
    """Mount a FUSE filesystem out of sight, and read what the kernel offers in INIT."""
    if os.geteuid() != 0:
        return Fuse(None, None)
    tester = child.fork(_try_fuse)
    poller = select.poll()
    poller.register(tester.pidfd, select.POLLIN)
    if not poller.poll(_PATIENCE_S * 1000):
        tester.send(signal.SIGKILL)
        return Fuse(False, None)
    code = tester.reap()
    if code == _EPERM_EXIT:
        return Fuse(None, None)
    if code not in (_WORKS, _WORKS_WITHOUT_RESEND):
        return Fuse(False, None)
    return Fuse(True, code == _WORKS)


def _try_fuse() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(calls.CLONE_NEWNS) != 0:
        return _EPERM_EXIT
    if libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC_PRIVATE), None) != 0:
        return _EPERM_EXIT
    with tempfile.TemporaryDirectory(prefix="pylxcfs-doctor-") as directory:
        try:
            connection = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
            options = f"fd={connection},rootmode=40000,user_id=0,group_id=0"
            place = os.fsencode(directory)
            kind = fusemount.FSTYPE.encode()
            if libc.mount(b"pylxcfs", place, kind, ctypes.c_ulong(7), options.encode()) != 0:
                return _FAILS
            try:
                # The kernel's first request is there as soon as it is mounted.
                offer = init.parse(os.read(connection, _READ_BUFFER))
            finally:
                fusemount.detach(directory)
                os.close(connection)
        except (OSError, ValueError):
            return _FAILS
    return _WORKS if offer.can_resend else _WORKS_WITHOUT_RESEND


def mounts_beneath() -> bool | None:
    """Return whether move_mount(2) can mount beneath a mount (Linux 6.5): no gap in `attach`."""
    # Flags are looked at before descriptors: EBADF says that the flag is known.
    return _known(lambda: calls.move_mount(-1, -1, beneath=True), {errno.EBADF}, {errno.EINVAL})


def opens_trees() -> bool | None:
    """Return whether openat2(2) and open_tree(2) are there (Linux 5.6), which `attach` needs."""

    def use() -> None:
        os.close(calls.open_path("/proc"))
        os.close(calls.open_tree("/proc"))

    return _known(use, set(), {errno.ENOSYS})


def finds_inits() -> bool | None:
    """Return whether NS_GET_TGID_FROM_PIDNS is there (Linux 6.11)."""
    number = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _known(
            lambda: fcntl.ioctl(number, NS_GET_TGID_FROM_PIDNS, os.getpid()),
            {errno.ESRCH},
            {errno.ENOTTY, errno.EINVAL, errno.ENOSYS},
        )
    finally:
        os.close(number)


def has_pidfds() -> bool | None:
    """Return whether pidfd_open(2) is there (Linux 5.3)."""
    return _known(lambda: os.close(os.pidfd_open(os.getpid())), set(), {errno.ENOSYS})


def _known(use: Callable[[], object], known: set[int], unknown: set[int]) -> bool | None:
    try:
        use()
    except OSError as error:
        if error.errno in known:
            return True
        return False if error.errno in unknown | {errno.ENOSYS} else None
    return True
