"""A helper process that enters namespaces for the server.

It forks inside of another pid namespace, or changes its cgroup namespace; a process with threads
can do neither. It holds no state and ends with its socket. Started by helper.py, in an empty
directory without a parent.

The fork inside of a pid namespace may be stopped, and with CAP_SYS_PTRACE traced, by the
container's root. So it has no capability, one descriptor, that empty directory as its root, and a
network and IPC namespace of the helper's own. It is in the cgroup of pylxcfs, which would be its
own one in the cgroup tree: a seccomp filter, there before it is, lets it get no descriptor but
pidfds. Its process group, which it cannot leave, is killed after a moment.

A request comes with the namespace's descriptor beside it (SCM_RIGHTS):
    b"P" + PID      the pid of that process of the namespace, in the helper's pid namespace, in
                    decimal
    b"C" + PID      the text of /proc/PID/cgroup as this cgroup namespace shows it, and behind NULs
                    that of the helper's own, as it is shown there and here
The answer is b"+" and that, or b"-" and the reason.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable

from pylxcfs.sources import confinement

_CLONE_NEWCGROUP = 0x02000000
_CLONE_NEWPID = 0x20000000
_CLONE_NEWIPC, _CLONE_NEWNET = 0x08000000, 0x40000000

#: Milliseconds that a child in the namespace has to send its message, on a busy machine, and after
#: which it is seen whether it was stopped: the container's root can do that, and readers wait.
_PATIENCE_MS = 2000
_LOOK_MS = 50

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
#: struct __user_cap_header_struct with _LINUX_CAPABILITY_VERSION_3, and two empty sets of data.
_CAP_HEADER = struct.pack("=Ii", 0x20080522, 0)
_NO_CAPS = bytes(24)
_MOST_DESCRIPTORS = 1024
_libc = ctypes.CDLL(None, use_errno=True)


def enter(namespace: int, kind: int) -> None:
    """setns(2): Python has it only since 3.12."""
    if _libc.setns(namespace, kind) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def process_of(namespace: int, pid: int, connection: socket.socket) -> bytes:
    """Return the pid of a process that has number `pid` in a pid namespace.

    A process inside opens it (pidfd_open, Linux 5.3) and sends the descriptor; the kernel says
    in fdinfo which pid that is here (pidfd_show_fdinfo). It must not have the helper's connection.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            child = os.fork()
            if child == 0:
                os.setpgid(0, 0)
                connection.close()  # with a number of the server, which may be a high one
                _in_child(lambda: _send_from_inside(namespace, pid, theirs))
            with contextlib.suppress(ProcessLookupError):
                os.setpgid(child, child)  # whichever of the two is first
        try:
            _wait_for_message(ours, child)
            message, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        finally:
            # Its message is here. Its own child is a process of the namespace and may have been
            # stopped there: that would stay, in the cgroup of pylxcfs.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
    try:
        if not message or not descriptors:
            raise ProcessLookupError("no such process in the pid namespace, or its init has ended")
        with open(f"/proc/self/fdinfo/{descriptors[0]}", "rb") as file:
            text = file.read()
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    for line in text.splitlines():
        if line.startswith(b"Pid:"):
            return line.split()[1]  # 0: not visible here, -1: it has ended
    raise OSError("the message from inside of the pid namespace was no pidfd")


def _wait_for_message(ours: socket.socket, child: int) -> None:
    poll = select.poll()
    poll.register(ours, select.POLLIN)
    for _ in range(_PATIENCE_MS // _LOOK_MS):
        if poll.poll(_LOOK_MS):
            return
        if _has_stopped_child(child):
            raise PermissionError("its process in the pid namespace was stopped")
    raise TimeoutError("no message from inside of the pid namespace")


def _has_stopped_child(pid: int) -> bool:
    """Return whether a child of a process is stopped or traced (T or t in /proc/PID/stat)."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            children = file.read().split()
        for one in children:
            with open(b"/proc/%b/stat" % one, "rb") as file:
                if file.read().rpartition(b") ")[2][:1] in (b"T", b"t"):
                    return True
    except OSError:
        pass  # it has just ended, or the kernel lists no children
    return False


def _in_child(task: Callable[[], object]) -> None:
    status = 1
    try:
        task()
        status = 0
    finally:
        os._exit(status)


def _send_from_inside(namespace: int, pid: int, to: socket.socket) -> None:
    enter(namespace, _CLONE_NEWPID)
    confinement.bound_memory()
    os.chroot(".")  # the helper's empty directory
    os.dup2(to.fileno(), 0)
    os.closerange(1, _MOST_DESCRIPTORS)
    for option, value in ((_PR_SET_NO_NEW_PRIVS, 1), (_PR_SET_DUMPABLE, 0)):
        if _libc.prctl(option, value, 0, 0, 0) != 0:
            return
    if _libc.capset(_CAP_HEADER, _NO_CAPS) != 0:
        return
    end = socket.socket(fileno=0)
    confinement.allow_only("sendmsg", "pidfd_open")
    inside = os.fork()  # setns() moves the children of the caller, not the caller
    if inside == 0:
        _in_child(lambda: socket.send_fds(end, [b"1"], [os.pidfd_open(pid)]))
    os.waitpid(inside, 0)


def cgroups_seen_from(namespace: int, pid: int, own: int) -> bytes:
    """Read /proc/PID/cgroup and one's own inside of a cgroup namespace, and come back."""
    here = _cgroup("self")
    enter(namespace, _CLONE_NEWCGROUP)
    try:
        return b"\0".join([_cgroup(str(pid)), _cgroup("self"), here])
    finally:
        enter(own, _CLONE_NEWCGROUP)


def _cgroup(process: str) -> bytes:
    with open(f"/proc/{process}/cgroup", "rb") as file:
        return file.read()


def answer(request: bytes, namespace: int, own: int, connection: socket.socket) -> bytes:
    """Return the answer to one request."""
    try:
        if request[:1] == b"P":
            return b"+" + process_of(namespace, int(request[1:]), connection)
        return b"+" + cgroups_seen_from(namespace, int(request[1:]), own)
    except (OSError, ValueError) as error:
        return b"-" + str(error).encode()


def serve(connection: socket.socket) -> None:
    """Answer until the other end closes."""
    own = os.open("/proc/self/ns/cgroup", os.O_RDONLY | os.O_CLOEXEC)
    # Abstract sockets of the host would answer a process that a container has taken over. Where
    # the sandbox of a service manager refuses this, the helper is of use all the same.
    _libc.unshare(_CLONE_NEWNET | _CLONE_NEWIPC)
    connection.send(b"+")
    while True:
        request, descriptors, _, _ = socket.recv_fds(connection, 64, 1)
        if not request:
            return
        try:
            connection.send(answer(request, descriptors[0], own, connection))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


if __name__ == "__main__":
    with (
        contextlib.suppress(ConnectionError),  # from a server that was killed
        socket.socket(fileno=int(sys.argv[1])) as _connection,
    ):
        serve(_connection)
