"""A helper process that reads the mount's links as a process of a container does.

For that a process of ours is in the container's pid namespace for a moment, where the container's
root may stop and kill it, and with CAP_SYS_PTRACE trace it. So that process has nothing to gain:

- It is a fork of this program, which has no environment and no data of pylxcfs, and never sees an
  answer. In its memory is the request, and no other container's name or key.
- It has no capability and no_new_privs; its root directory is a detached copy of the mount, above
  which there is nothing, also for a container that opens its /proc/PID/root; and its one descriptor
  is the pipe for the answer. Network and IPC namespace are the container's.
- It is in the cgroup of the process that attaches, which would be its own one in the cgroup tree.
  So a seccomp filter, there before it is, leaves it readlink(2), write(2), signals, memory, fork(2)
  and its end: it gets no descriptor but pidfds. On machines of which numbers are known here.
- It gets little memory, and is the first that the kernel kills for memory.
- Without CAP_SYS_PTRACE nobody may trace it or open its files in /proc (PR_SET_DUMPABLE).
- It is killed after half a second, with what it has forked.

Started by sources/helper.py with the number of its socket. A request comes with a pidfd, the pipe
and the copy of the mount beside it (SCM_RIGHTS); it is the paths, with zero bytes between them.
Into the pipe goes where each path leads, each with a zero byte behind it. The answer is b"+", or
b"-" and the number of the error.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from typing import NoReturn

from pylxcfs.sources import confinement

_NAMESPACES = 0x20000000 | 0x02000000 | 0x40000000 | 0x08000000  # CLONE_NEW{PID,CGROUP,NET,IPC}
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
#: struct __user_cap_header_struct with _LINUX_CAPABILITY_VERSION_3, and two empty sets of data.
_CAP_HEADER = struct.pack("=Ii", 0x20080522, 0)
_NO_CAPS = bytes(24)
_MOST_DESCRIPTORS = 1024

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


def confine() -> None:
    """Allow what the process inside needs, and the one that waits for it."""
    waits = ("pidfd_open", "poll", "ppoll", "clock_gettime", "kill")
    confinement.allow_only("readlink", "readlinkat", "write", *waits)


def ask(paths: Sequence[bytes], pidfd: int, pipe: int, tree: int) -> None:
    """Fork the process inside, and see it end. Raise OSError."""
    check(_libc.setns(pidfd, _NAMESPACES))
    confinement.bound_memory()
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
