"""What a thread that waits in read(2) has asked for, from where; and which program it runs.

FUSE tells a filesystem neither when the page cache is in between. The kernel does, in
/proc/TID/syscall (proc_pid_syscall, fs/proc/base.c) for a thread that sleeps in a system call.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Final, NamedTuple

_READ: Final = 1
_PREAD: Final = 2
_READV: Final = 3
_PREADV: Final = 4
_UNKNOWN: Final = 5

#: include/uapi/asm-generic/unistd.h, which newer machines use.
_GENERIC: Final = {63: _READ, 67: _PREAD, 65: _READV, 69: _PREADV, 286: _PREADV}
#: System calls that read, by machine. The last of x86-64 are those of 32-bit programs, which may
#: not be in doubt: what has the same numbers in 64-bit ones does not ask for attributes.
_READS: Final[Mapping[str, Mapping[int, int]]] = {
    "x86_64": {
        0: _READ,
        17: _PREAD,
        19: _READV,
        295: _PREADV,
        327: _PREADV,
        3: _READ,
        180: _PREAD,
        145: _READV,
    },
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
    "loongarch64": _GENERIC,
    "ppc64le": {3: _READ, 179: _PREAD, 145: _READV, 320: _PREADV, 380: _PREADV},
    "s390x": {3: _READ, 180: _PREAD, 145: _READV, 328: _PREADV, 376: _PREADV},
}
#: io_uring_enter, and what the kernel's threads that work for it are in. They may read anything.
_CALLS: Final = {**_READS.get(os.uname().machine, {}), 426: _UNKNOWN, -1: _UNKNOWN}
#: An offset of preadv2(2) that says: from where the file is.
_FROM_POSITION: Final = (1 << 64) - 1

#: A thread that has sent a request needs a moment until it sleeps, on another CPU than ours.
_TRIES: Final = 20
_MOMENT_S: Final = 10e-6


class Reading(NamedTuple):
    """Bytes asked for, 0 where that is not known, and from where, None where that is not known."""

    size: int
    offset: int | None


#: It may be reading.
UNKNOWN: Final = Reading(0, None)


def can_be_told() -> bool:
    """Whether this kernel (CONFIG_HAVE_ARCH_TRACEHOOK) and this machine tell of other threads."""
    if os.uname().machine not in _READS:
        return False
    try:
        with open("/proc/thread-self/syscall", "rb") as file:
            return bool(file.read())
    except OSError:
        return False


def of(tid: int, proc: str = "/proc", *, with_offset: bool = True) -> Reading | None:
    """Return what a thread reads that waits for us; UNKNOWN if it may read, and that is all.

    None for what reads nothing, as fstat(2) and lseek(2), and for a thread that does not get to
    sleep. The offset of most calls has a price of its own; how much vectored ones read is written
    in the thread's memory, and not looked up.
    """
    try:
        words = _system_call(f"{proc}/{tid}/syscall")
        call = _CALLS.get(int(words[0])) if words else None
        if call is None:
            return None
        if call == _UNKNOWN:
            return UNKNOWN
        size = int(words[3], 16) if call in (_READ, _PREAD) else 0
        if call in (_PREAD, _PREADV):
            offset = int(words[4], 16)
            if offset != _FROM_POSITION:
                return Reading(size, offset)
        return Reading(size, _position(proc, tid, words[1]) if with_offset else None)
    except (OSError, ValueError, IndexError):
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
