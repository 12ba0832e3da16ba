"""What a thread that waits in read(2) has asked for, from where; and which program it runs.

FUSE tells a filesystem neither when the page cache is in between. The kernel does, in
/proc/TID/syscall (proc_pid_syscall, fs/proc/base.c) for a thread that sleeps in a system call.
"""

from __future__ import annotations

import os
import time
from typing import Final, NamedTuple

#: read, pread64, readv, lseek (include/uapi/asm-generic/unistd.h, which newer machines use).
_GENERIC: Final = (63, 67, 65, 62)
_NUMBERS: Final = {
    "x86_64": (0, 17, 19, 8),
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
    "loongarch64": _GENERIC,
    "ppc64le": (3, 179, 145, 19),
    "s390x": (3, 180, 145, 19),
}
_READ, _PREAD, _READV, _LSEEK = _NUMBERS.get(os.uname().machine, (-1, -1, -1, -1))

#: A thread that has sent a request needs a moment until it sleeps, on another CPU than ours.
_TRIES: Final = 20
_MOMENT_S: Final = 10e-6


class Reading(NamedTuple):
    """Bytes asked for, 0 where that is not known, and from where, None where that is not known."""

    size: int
    offset: int | None


UNKNOWN: Final = Reading(0, None)


def can_be_told() -> bool:
    """Whether this kernel (CONFIG_HAVE_ARCH_TRACEHOOK) and this machine tell of other threads."""
    return _READ >= 0 and os.access("/proc/1/syscall", os.R_OK)


def of(tid: int, proc: str = "/proc", *, with_offset: bool = True) -> Reading | None:
    """Return what a thread reads that waits for us; UNKNOWN for any other system call.

    None for lseek(2), which wants to know the size and reads nothing, and for a thread that does
    not get to sleep. The offset of most calls has a price of its own.
    """
    try:
        words = _system_call(f"{proc}/{tid}/syscall")
        if not words:
            return None
        number = int(words[0])
        if number == _PREAD:
            return Reading(int(words[3], 16), int(words[4], 16))
        if number == _READ:
            size = int(words[3], 16)
            return Reading(size, _position(proc, tid, words[1]) if with_offset else None)
        if number == _LSEEK:
            return None
        if number == _READV:  # its buffers are in the thread's memory
            return Reading(0, _position(proc, tid, words[1]) if with_offset else None)
    except (OSError, ValueError, IndexError):
        pass
    return UNKNOWN


def program(tid: int, proc: str = "/proc") -> bytes:
    """Return the path of the program that a thread runs, as its own mounts have it; b"" if none.

    Only the link is read: the file may be on a filesystem that does not answer.
    """
    try:
        return os.readlink(f"{proc}/{tid}/exe".encode())
    except OSError:
        return b""


def _system_call(path: str) -> list[bytes]:
    """Return the number and arguments of the call that a thread sleeps in; [] if it runs."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            text = os.pread(descriptor, 256, 0)
            if text != b"running\n":
                return text.split()
            time.sleep(_MOMENT_S)
    finally:
        os.close(descriptor)
    return []


def _position(proc: str, tid: int, fd: bytes) -> int | None:
    """Return the offset of an open file (fdinfo's first line, fs/proc/fd.c seq_show)."""
    path = f"{proc}/{tid}/fdinfo/{int(fd, 16)}"
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        name, position = os.pread(descriptor, 64, 0).split(None, 2)[:2]
    finally:
        os.close(descriptor)
    return int(position) if name == b"pos:" else None
