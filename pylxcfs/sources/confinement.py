"""What a process has left before a container may run code in it: little memory, few system calls.

For the programs of helper processes (helper.py), of which this is the one module of pylxcfs that
they import; it imports the standard library alone. Each function raises OSError.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
import sys
from typing import Final

_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_SECCOMP_RET_ERRNO: Final = 0x00050000
_SECCOMP_RET_ALLOW: Final = 0x7FFF0000
#: struct sock_filter: code, jt, jf, k. Offsets of nr and arch in struct seccomp_data.
_INSTRUCTION: Final = struct.Struct("=HBBI")
_BPF_LOAD, _BPF_JUMP_EQUAL, _BPF_RETURN = 0x20, 0x15, 0x06
_NR, _ARCH = 0, 4

#: AUDIT_ARCH_* (include/uapi/linux/audit.h), and the place of a machine's numbers below.
_MACHINES: Final = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
#: Numbers of asm/unistd_64.h and of asm-generic/unistd.h, which has no older forms of some calls.
_NUMBERS: Final[dict[str, tuple[int, int | None]]] = {
    "brk": (12, 214),
    "clock_gettime": (228, 113),
    "clone": (56, 220),
    "exit_group": (231, 94),
    "fork": (57, None),
    "futex": (202, 98),
    "kill": (62, 129),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "pidfd_open": (434, 434),
    "poll": (7, None),
    "ppoll": (271, 73),
    "read": (0, 63),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "restart_syscall": (219, 128),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sendmsg": (46, 211),
    "sendto": (44, 206),
    "wait4": (61, 260),
    "write": (1, 64),
}
#: What Python needs to run and to fork, and to end.
_ALWAYS: Final = (
    *("brk", "mmap", "munmap", "futex"),
    *("rt_sigprocmask", "rt_sigreturn", "restart_syscall"),
    *("clone", "fork", "wait4", "exit_group"),
)
#: Address space, more than the process has.
_MORE_MEMORY: Final = 8 << 20

_libc = ctypes.CDLL(None, use_errno=True)


def allow_only(*calls: str) -> bool:
    """Allow memory, signal masks, fork(2), its end and these system calls; the rest is EPERM.

    For good, and for what is forked. Needs no_new_privs or CAP_SYS_ADMIN. Return False, and allow
    all, on a machine of which the numbers are not known here, and in a 32-bit Python.
    """
    machine = _MACHINES.get(os.uname().machine) if sys.maxsize >> 32 else None
    if machine is None:
        return False
    arch, place = machine
    numbers = [n for call in (*_ALWAYS, *calls) if (n := _NUMBERS[call][place]) is not None]
    refused = _INSTRUCTION.pack(_BPF_RETURN, 0, 0, _SECCOMP_RET_ERRNO | errno.EPERM)
    program = [
        _INSTRUCTION.pack(_BPF_LOAD, 0, 0, _ARCH),
        _INSTRUCTION.pack(_BPF_JUMP_EQUAL, 1, 0, arch),
        refused,
        _INSTRUCTION.pack(_BPF_LOAD, 0, 0, _NR),
        # Each jumps over those that follow it and over what refuses.
        *(
            _INSTRUCTION.pack(_BPF_JUMP_EQUAL, len(numbers) - i, 0, number)
            for i, number in enumerate(numbers)
        ),
        refused,
        _INSTRUCTION.pack(_BPF_RETURN, 0, 0, _SECCOMP_RET_ALLOW),
    ]
    text = ctypes.create_string_buffer(b"".join(program))
    header = struct.pack("@HP", len(program), ctypes.addressof(text))  # struct sock_fprog
    if _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return True


def bound_memory() -> None:
    """Bound the memory of what is forked, and let the kernel kill it before others for memory.

    The service's own oom_score_adj may be -1000. prlimit(2), as setrlimit(2) is in @resources.
    """
    with open("/proc/self/oom_score_adj", "wb") as file:
        file.write(b"1000")
    with open("/proc/self/statm", "rb") as file:
        most = int(file.read().split()[0]) * resource.getpagesize() + _MORE_MEMORY
    resource.prlimit(0, resource.RLIMIT_AS, (most, most))
