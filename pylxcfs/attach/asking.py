"""A helper process that reads the mount's links as a process of a container does.

For that a process of ours is in the container's pid namespace for a moment, where the container's
root may stop and kill it, and with CAP_SYS_PTRACE trace it. So that process has nothing to gain:

- It is a fork of this program, which imports nothing of pylxcfs, has no environment, and never sees
  an answer. In its memory is the request, and no other container's name or key.
- It has no capability and no_new_privs; its root directory is a detached copy of the mount, above
  which there is nothing, also for a container that opens its /proc/PID/root; and its one descriptor
  is the pipe for the answer. Network and IPC namespace are the container's.
- It is in the cgroup of the process that attaches, which would be its own one in the cgroup tree.
  So a seccomp filter, there before it is, leaves it readlink(2), write(2), signals, memory, fork(2)
  and its end: it gets no descriptor but pidfds. On machines of which numbers are known here.
- It gets little memory, and is the first that the kernel kills for memory.
- Without CAP_SYS_PTRACE nobody may trace it or open its files in /proc (PR_SET_DUMPABLE).
- It is killed after half a second, with what it has forked.

Started by sources/helper.py as `python -I -S asking.py FD`. A request comes with a pidfd, the
pipe and the copy of the mount beside it (SCM_RIGHTS); it is the paths, with zero bytes between
them. Into the pipe goes where each path leads, each with a zero byte behind it. The answer is b"+",
or b"-" and the number of the error.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import select
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from typing import NoReturn

_NAMESPACES = 0x20000000 | 0x02000000 | 0x40000000 | 0x08000000  # CLONE_NEW{PID,CGROUP,NET,IPC}
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SECCOMP_MODE_FILTER = 2
#: What the process inside, and the one that waits for it, may call, by machine (as in
#: sources/ascaller.py): AUDIT_ARCH, and the numbers of readlinkat, write, mmap, munmap, brk, futex,
#: rt_sigprocmask, rt_sigreturn, restart_syscall, clone, pidfd_open, ppoll, clock_gettime, kill,
#: wait4, exit_group, and x86's readlink, fork and poll.
_ALLOWED = {
    "x86_64": (
        0xC000003E,
        (267, 1, 9, 11, 12, 202, 14, 15, 219, 56, 434, 271, 228, 62, 61, 231, 89, 57, 7),
    ),
    "aarch64": (
        0xC00000B7,
        (78, 64, 222, 215, 214, 98, 135, 139, 128, 220, 434, 73, 113, 129, 260, 94),
    ),
}
#: struct sock_filter: code, jt, jf, k.
_INSTRUCTION = struct.Struct("=HBBI")
_BPF_LOAD, _BPF_JUMP_EQUAL, _BPF_RETURN = 0x20, 0x15, 0x06
_NR, _ARCH = 0, 4
_SECCOMP_RET_ERRNO, _SECCOMP_RET_ALLOW = 0x00050000, 0x7FFF0000
#: struct __user_cap_header_struct with _LINUX_CAPABILITY_VERSION_3, and two empty sets of data.
_CAP_HEADER = struct.pack("=Ii", 0x20080522, 0)
_NO_CAPS = bytes(24)
_MOST_DESCRIPTORS = 1024
#: Address space of the process inside, more than the helper has.
_MORE_MEMORY = 8 << 20

#: Milliseconds for the process in the namespace. The container's root may have stopped it.
PATIENCE_MS = 500
#: Longest request; each path has less than 40 bytes.
_REQUEST_SIZE = 8192

_libc = ctypes.CDLL(None, use_errno=True)


def check(result: int) -> None:
    """Raise OSError for the failure of a system call."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def links(paths: Sequence[bytes]) -> bytes:
    """Return where the links below the root lead each path; b"" where there is none."""
    found = b""
    for path in paths:
        words = path.split(b"/")
        for length in range(2, len(words) + 1):  # proc and sys are directories
            directory, rest = words[:length], words[length:]
            try:
                target = os.readlink(b"/".join(directory))
            except OSError:  # a directory, or the host has no such file
                continue
            found += b"/".join([*directory[:-1], target, *rest])
            break
        found += b"\0"
    return found


def bound_memory() -> None:
    """Bound the memory of what is forked, and let the kernel kill it before others for memory.

    The service's own oom_score_adj may be -1000. prlimit(2), as setrlimit(2) is in @resources.
    """
    with open("/proc/self/oom_score_adj", "wb") as file:
        file.write(b"1000")
    with open("/proc/self/statm", "rb") as file:
        most = int(file.read().split()[0]) * resource.getpagesize() + _MORE_MEMORY
    resource.prlimit(0, resource.RLIMIT_AS, (most, most))


def confine() -> None:
    """Allow nothing but what the process inside needs; the rest is EPERM."""
    allowed = _ALLOWED.get(os.uname().machine) if sys.maxsize >> 32 else None
    if allowed is None:
        return
    arch, numbers = allowed
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
    check(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0))


def ask(paths: Sequence[bytes], pidfd: int, pipe: int, tree: int) -> None:
    """Fork the process inside, and see it end. Raise OSError."""
    check(_libc.setns(pidfd, _NAMESPACES))
    bound_memory()
    os.fchdir(tree)
    os.chroot(".")
    # The next child is the one inside. It is born with this.
    os.dup2(pipe, 0)
    os.closerange(1, _MOST_DESCRIPTORS)
    check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    check(_libc.capset(_CAP_HEADER, _NO_CAPS))
    confine()
    inside = os.fork()
    if inside == 0:
        os.write(0, links(paths))
        os._exit(0)
    ended = select.poll()
    ended.register(os.pidfd_open(inside), select.POLLIN)
    is_late = not ended.poll(PATIENCE_MS)
    os.kill(inside, signal.SIGKILL)
    ended.poll(PATIENCE_MS)
    # One that is traced is its tracer's to reap first, which may not do so.
    reaped, status = os.waitpid(inside, os.WNOHANG)
    if not reaped or os.waitstatus_to_exitcode(status) != 0:
        is_late = is_late or not reaped
        raise OSError(errno.ETIMEDOUT if is_late else errno.EIO, "the process inside was stopped")


def answer(connection: socket.socket, request: bytes, descriptors: Sequence[int]) -> bytes:
    """Return the answer to one request."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        connection.close()
        _in_child(request, *descriptors)
    # It leads the group of what is inside, whatever that has forked; until it is reaped no other
    # group has its number.
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return b"+" if code == 0 else b"-%d" % max(code, 0)


def _in_child(request: bytes, pidfd: int, pipe: int, tree: int) -> NoReturn:
    code = errno.EIO
    try:
        ask(request.split(b"\0"), pidfd, pipe, tree)
        code = 0
    except OSError as error:
        code = min(error.errno or errno.EIO, 254)
    finally:
        os._exit(code)


def serve(connection: socket.socket) -> None:
    """Answer until the other end closes."""
    check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))
    connection.send(b"+")
    while True:
        request, descriptors, _, _ = socket.recv_fds(connection, _REQUEST_SIZE, 3)
        if not request:
            return
        try:
            reply = answer(connection, request, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        connection.send(reply)


if __name__ == "__main__":
    with (
        contextlib.suppress(ConnectionError),  # from a process that was killed
        socket.socket(fileno=int(sys.argv[1])) as _connection,
    ):
        serve(_connection)
