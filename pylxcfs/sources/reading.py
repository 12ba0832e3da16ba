"""What a thread waits in: read(2) and its file position, or open(2).

A FUSE server is not told which part of a file a reader has already taken from the page cache. The
kernel shows it in /proc/TID/syscall (proc_pid_syscall, fs/proc/base.c), for a thread that sleeps
in a system call, and in /proc/TID/fdinfo/FD (seq_show, fs/proc/fd.c).

Another thread of the container may put any file in the place of FD, and printing that one's fdinfo
may block: of an epoll file, for as long as a page fault of the container takes (ep_show_fdinfo).
So this file is a helper process (helper.py). A request is a thread's id in decimal, and the answer
its offset, or nothing; with an "O" in front of the id the answer is "1" for a thread in open(2),
else nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Mapping
from typing import Final

#: Where a system call has its offset: in the file's position, or in its fourth argument.
_POSITION: Final = False
_ARGUMENT: Final = True

#: read, pread64, readv, preadv, preadv2 of include/uapi/asm-generic/unistd.h.
_GENERIC: Final = {63: _POSITION, 67: _ARGUMENT, 65: _POSITION, 69: _ARGUMENT, 286: _ARGUMENT}
#: System calls that read, by machine. The last four of x86-64 are those of 32-bit programs; the
#: calls that have these numbers in 64-bit programs do not lead to requests of a read.
_READS: Final[Mapping[str, Mapping[int, bool]]] = {
    "x86_64": {
        0: _POSITION,
        17: _ARGUMENT,
        19: _POSITION,
        295: _ARGUMENT,
        327: _ARGUMENT,
        3: _POSITION,
        180: _ARGUMENT,
        145: _POSITION,
    },
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
    "loongarch64": _GENERIC,
    "ppc64le": {3: _POSITION, 179: _ARGUMENT, 145: _POSITION, 320: _ARGUMENT, 380: _ARGUMENT},
    "s390x": {3: _POSITION, 180: _ARGUMENT, 145: _POSITION, 328: _ARGUMENT, 376: _ARGUMENT},
}
_CALLS: Final = _READS.get(os.uname().machine, {})
#: open, openat, openat2, by machine. 32-bit programs on x86-64: openat alone, as 5 is fstat there.
_OPENS: Final[Mapping[str, frozenset[int]]] = {
    "x86_64": frozenset({2, 257, 437, 295}),
    "aarch64": frozenset({56, 437}),
    "riscv64": frozenset({56, 437}),
    "loongarch64": frozenset({56, 437}),
    "ppc64le": frozenset({5, 286, 437}),
    "s390x": frozenset({5, 288, 437}),
}
_OPENING: Final = _OPENS.get(os.uname().machine, frozenset())
#: The offset in preadv2(2) that stands for the file's position.
_FROM_POSITION: Final = (1 << 64) - 1

#: The answer for a thread that does not fall asleep within a millisecond. It may be in a read.
AWAKE: Final = -1
#: A thread that has sent a request takes a moment to fall asleep on another CPU.
_TRIES: Final = 10
_MOMENT_S: Final = 10e-6


def offset(tid: int, proc: str = "/proc") -> int | None:
    """Return the offset in bytes from which a waiting thread reads.

    AWAKE for one that has not fallen asleep yet; None for one that is in another system call, or
    cannot be examined.
    """
    try:
        if not _is_asleep(f"{proc}/{tid}/wchan"):
            return AWAKE
        words = _read(f"{proc}/{tid}/syscall").split()
        in_argument = _CALLS.get(int(words[0]))
        if in_argument is None:
            return None
        if in_argument:
            position = int(words[4], 16)
            if position != _FROM_POSITION:
                return position
        name, position_text = _read(f"{proc}/{tid}/fdinfo/{int(words[1], 16)}").split(None, 2)[:2]
        return int(position_text) if name == b"pos:" else None
    except (OSError, ValueError, IndexError):
        return None


def opens(tid: int, proc: str = "/proc") -> bool:
    """Return whether a waiting thread is in open(2), as far as is known: one that is awake may be.

    False for one that is in another system call, or cannot be examined.
    """
    try:
        if not _is_asleep(f"{proc}/{tid}/wchan"):
            return True
        return int(_read(f"{proc}/{tid}/syscall").split()[0]) in _OPENING
    except (OSError, ValueError, IndexError):
        return False


def _is_asleep(path: str) -> bool:
    """Return whether a thread sleeps, after a few tries.

    From /proc/TID/wchan (proc_pid_wchan), as the kernel makes a reader of `syscall` wait until a
    thread that is about to sleep has left its run queue (wait_task_inactive): a timer tick, or as
    long as its cgroup is throttled.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            if os.pread(descriptor, 64, 0) != b"0":
                return True
            time.sleep(_MOMENT_S)
    finally:
        os.close(descriptor)
    return False


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 256)
    finally:
        os.close(descriptor)


def answer(request: bytes) -> bytes:
    """Return the answer to a request."""
    if request.startswith(b"O"):
        return b"+1" if opens(int(request[1:])) else b"+"
    found = offset(int(request))
    return b"+" if found is None else b"+%d" % found


def serve(connection: socket.socket) -> None:
    """Answer until the other end closes."""
    connection.send(b"+")
    while request := connection.recv(64):
        connection.send(answer(request))


if __name__ == "__main__":
    with (
        contextlib.suppress(ConnectionError),  # from a server that was killed
        socket.socket(fileno=int(sys.argv[1])) as _connection,
    ):
        serve(_connection)
