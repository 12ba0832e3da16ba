"""The kernel's side of seccomp user notification (include/uapi/linux/seccomp.h, Linux 5.5).

A listener hands out calls (struct seccomp_notif) and takes answers (struct seccomp_notif_resp).
Structures of 80 and 24 bytes and the numbers of ioctls are the same on all machines. Knows no
container.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import struct
from typing import Final, NamedTuple

_RECV: Final = 0xC0502100
_SEND: Final = 0xC0182101
_ID_VALID: Final = 0x40082102
_SET_FLAGS: Final = 0x40082104
_SYNC_WAKE_UP: Final = 1
_CONTINUE: Final = 1

#: id, pid, flags, then struct seccomp_data: nr, arch, instruction pointer, six arguments.
_NOTIF: Final = struct.Struct("=QIIiIQ6Q")
#: id, val, error, flags.
_RESP: Final = struct.Struct("=QqiI")
_ID: Final = struct.Struct("=Q")


class Call(NamedTuple):
    """A system call that waits for an answer."""

    ident: int
    #: The thread, in this process's pid namespace; 0 where it is not visible.
    tid: int
    number: int
    #: AUDIT_ARCH_* of include/uapi/linux/audit.h.
    arch: int
    args: tuple[int, ...]


class Answer(NamedTuple):
    """What a call returns: a value, or an error number; `passed`: the kernel answers."""

    value: int = 0
    error: int = 0
    passed: bool = False


#: The kernel does as if nobody had asked.
PASS: Final = Answer(passed=True)


def parse(data: bytes) -> Call:
    """Return the call in a struct seccomp_notif."""
    ident, tid, _, number, arch, _, *args = _NOTIF.unpack_from(data)
    return Call(ident, tid, number, arch, tuple(args))


def pack(ident: int, answer: Answer) -> bytes:
    """Return the struct seccomp_notif_resp of an answer."""
    flags = _CONTINUE if answer.passed else 0
    return _RESP.pack(ident, answer.value, -answer.error, flags)


class Listener:
    """A seccomp listener; the descriptor belongs to the caller."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._poller = select.poll()
        self._poller.register(number, select.POLLIN)
        with contextlib.suppress(OSError):  # Linux before 6.6
            # The answer wakes the caller on this CPU: a call takes half the time.
            fcntl.ioctl(number, _SET_FLAGS, _SYNC_WAKE_UP)

    def receive(self) -> Call | None:
        """Wait for a call; return None when the last process of the filter has ended.

        poll(2) says that (Linux 5.9); the ioctl alone would wait for good on older kernels.
        """
        while True:
            ((_, events),) = self._poller.poll()
            if not events & select.POLLIN:
                return None
            data = bytearray(_NOTIF.size)
            try:
                fcntl.ioctl(self.number, _RECV, data)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT):  # ENOENT: its thread was killed
                    continue
                raise
            return parse(bytes(data))

    def is_valid(self, ident: int) -> bool:
        """Return whether a call still waits: its thread has not been killed or interrupted."""
        try:
            fcntl.ioctl(self.number, _ID_VALID, _ID.pack(ident))
        except OSError:
            return False
        return True

    def send(self, ident: int, answer: Answer) -> bool:
        """Answer a call; return False if it does not wait any more, or was not handed out."""
        try:
            fcntl.ioctl(self.number, _SEND, pack(ident, answer))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINPROGRESS):
                return False
            raise
        return True


def open_memory(tid: int) -> int:
    """Open the memory of a thread's process. Raise OSError."""
    return os.open(f"/proc/{tid}/mem", os.O_RDWR | os.O_CLOEXEC)
