"""A helper process that works on cgroupfs with a caller's credentials, so that the kernel decides.

For each request it forks a child, which takes the ids, groups, capabilities, user namespace and
cgroup namespace of the caller before it touches a file. So a mode, an owner, a capability and the
rules for moving a process count for it as they do for the caller itself. Files that list processes
are opened that way and then read or written by a process in the caller's pid namespace, for which
the kernel translates pids, both ways.

The container may signal a process in its pid namespace, and with CAP_SYS_PTRACE in the initial user
namespace trace it and run code in it. So a seccomp filter, there before the process is, leaves that
one read(2), write(2), memory, fork(2) and its end. It has two descriptors, the file and the answer;
no capability but the caller's CAP_SYS_NICE, and none to read; no directory but
an empty one without a parent; and the caller's network namespace.

A child that takes too long is killed, with what it has forked; of those that do not end each
container has a few. All are killed when the helper ends, also by SIGKILL and with what is stopped:
each process group has a lifeline, a pipe of which the helper has the write end. When that closes,
the kernel sends the group the signal that F_SETSIG names, which is SIGKILL here. PR_SET_PDEATHSIG
would not do: a new process has none, and a container may stop it before it asks for one. Nor may
a container reach the pipe: a tracer would open its write end by /proc/PID/fd. So where a process is
inside, another one of the group has it, which is in no container.

It has no data of pylxcfs and ends with its socket. Started by helper.py, in that directory. A
request is a line of JSON, with three descriptors (SCM_RIGHTS): a stream socket, the caller's
directory in /proc, and the directory of the caller's cgroup, below which everything happens.

    {"timeout_s": 0 for none, "key": a digest of what requests of one container, or of one user of
     the host, have in common}

The rest comes on the stream, to its end, and is read by the child: what the helper has read, later
children have in their memory, and a container that traces one would see requests of others. It is
a line of JSON and the data of a write.

    {"do": "mkdir" | "rmdir" | "chmod" | "chown" | "read" | "write",
     "path": directory, "number": its st_ino, "name": in it, "lists": "", "tgid" or "pid",
     "mode", "uid", "gid": as the host counts them, -1 for no change, "most": bytes to read,
     "size": of the data, "rights": those with which the caller asked, in hexadecimal}

The caller need not wait, with asynchronous I/O or after ETIMEDOUT, and may have become a program
with the set-user-ID bit. So the child reads the caller's rights once, compares them with those of
the request, and takes what it has read; EACCES where they differ.

The answer is b"+" and what was read, or b"-" and an errno, and then the end of the stream.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import math
import os
import re
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from pylxcfs.sources import confinement

_OPENAT2 = 437
#: struct open_how with RESOLVE_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS and _BENEATH.
_HOW = struct.Struct("=QQQ")
_RESOLVE = 1 | 2 | 4 | 8

_CLONE_NEWCGROUP, _CLONE_NEWUSER = 0x02000000, 0x10000000
_CLONE_NEWPID, _CLONE_NEWNET = 0x20000000, 0x40000000
_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_SET_NO_NEW_PRIVS = 4, 8, 38
#: struct __user_cap_header_struct with _LINUX_CAPABILITY_VERSION_3.
_CAP_HEADER = struct.pack("=Ii", 0x20080522, 0)
_CAP_DATA = struct.Struct("=IIIIII")
_CAP_SETUID, _CAP_SYS_NICE = 1 << 7, 1 << 23
#: From a pid in a namespace to that in the caller's (Linux 6.11, include/uapi/linux/nsfs.h).
_NS_GET_PID_FROM_PIDNS = 0x8004B706
#: The namespaces of the caller that count.
_SPACES = ("user", "pid", "cgroup", "net")
#: The lines of /proc/TID/status that say what it may do.
_RIGHTS = (b"Uid", b"Gid", b"Groups", b"CapEff")
_PID = re.compile(rb"0|[1-9][0-9]{0,9}")
_MOST_DESCRIPTORS = 1024
#: The descriptor of a child's lifeline, in place of stdin.
_LIFELINE = 0
_REQUEST_SIZE = 1 << 10
#: Children that have not ended: of all callers and of one key, at most.
_MOST_CHILDREN, _MOST_EACH = 512, 8
#: What has ended stays a zombie for so many milliseconds at most.
_REAP_MS = 1000.0

_libc = ctypes.CDLL(None, use_errno=True)


class Credentials(NamedTuple):
    """What the kernel knows of the caller, in the host's ids (/proc/TID/status)."""

    uid: int
    euid: int
    fsuid: int
    egid: int
    fsgid: int
    groups: tuple[int, ...]
    #: Effective capabilities, in its own user namespace.
    caps: int
    #: Its pid and that of its process, in its own pid namespace.
    pid: int
    tgid: int

    @classmethod
    def parse(cls, status: bytes) -> Credentials:
        """Read the text of /proc/TID/status (proc_pid_status, fs/proc/array.c)."""
        found = _fields(status)
        uid, euid, _, fsuid = map(int, found[b"Uid"].split())
        _, egid, _, fsgid = map(int, found[b"Gid"].split())
        groups = tuple(map(int, found[b"Groups"].split()))
        caps = int(found[b"CapEff"], 16)
        pid, tgid = (int(found[name].split()[-1]) for name in (b"NSpid", b"NStgid"))
        return cls(uid, euid, fsuid, egid, fsgid, groups, caps, pid, tgid)


def _fields(status: bytes) -> dict[bytes, bytes]:
    return dict(line.split(b":", 1) for line in status.splitlines() if b":" in line)


def rights_of(proc: int) -> bytes:
    """Return a digest of the credentials and namespaces of the process with a directory in /proc.

    16 bytes, as a caller may have 65,536 groups. Raise OSError if it has ended.
    """
    return _rights([os.readlink(f"ns/{name}", dir_fd=proc) for name in _SPACES], _status(proc))


def _rights(spaces: list[str], status: bytes) -> bytes:
    found = _fields(status)
    text = b"\n".join([*map(os.fsencode, spaces), *(found[name] for name in _RIGHTS)])
    return hashlib.blake2b(text, digest_size=16).digest()


def real_uid(proc: int) -> int:
    """Return the real uid of the process with a directory in /proc. Raise OSError."""
    return int(_fields(_status(proc))[b"Uid"].split()[0])


def open_beneath(directory: int, path: str, flags: int) -> int:
    """Open a path below a directory: no link, no mount, no "..". Raise OSError."""
    how = _HOW.pack(flags | os.O_CLOEXEC, 0, _RESOLVE)
    name = os.fsencode(path) or b"."
    found: int = _libc.syscall(_OPENAT2, directory, name, how, ctypes.c_size_t(len(how)))
    return _check(found)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _read(directory: int, name: str) -> bytes:
    with open(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory), "rb") as file:
        return file.read()


def _status(proc: int) -> bytes:
    return _read(proc, "status")


def _set_capabilities(effective: int, permitted: int) -> None:
    low = (1 << 32) - 1
    data = _CAP_DATA.pack(effective & low, permitted & low, 0, effective >> 32, permitted >> 32, 0)
    _check(_libc.capset(_CAP_HEADER, data))


def own_capabilities() -> int:
    """Return the effective capabilities of this thread."""
    data = ctypes.create_string_buffer(_CAP_DATA.size)
    _check(_libc.capget(_CAP_HEADER, data))
    low, _, _, high, _, _ = _CAP_DATA.unpack(data.raw)
    return int(low) | int(high) << 32


def _prctl(option: int, value: int) -> None:
    _check(_libc.prctl(option, value, 0, 0, 0))


class Impersonation:
    """The caller's namespaces and credentials as they are now, and how to take them."""

    def __init__(self, proc: int) -> None:
        flags = os.O_RDONLY | os.O_CLOEXEC
        self._spaces = {name: os.open(f"ns/{name}", flags, dir_fd=proc) for name in _SPACES}
        self._maps: tuple[bytes, bytes] | None = None
        if self._namespace("user") >= 0:
            self._maps = _read(proc, "uid_map"), _read(proc, "gid_map")
        # Last: a caller that changes before this has another digest.
        status = _status(proc)
        self.who = Credentials.parse(status)
        links = [os.readlink(f"/proc/self/fd/{number}") for number in self._spaces.values()]
        #: As `rights_of` has it.
        self.rights = _rights(links, status)

    def _namespace(self, name: str) -> int:
        """Return a descriptor of one of its namespaces; -1 where it is this process's own."""
        number = self._spaces[name]
        return -1 if os.fstat(number).st_ino == os.stat(f"/proc/self/ns/{name}").st_ino else number

    @property
    def is_elsewhere(self) -> bool:
        """Whether it is in another pid namespace than this process."""
        return self._namespace("pid") >= 0

    def take(self, *, pids: bool, moved: int = 0) -> bool:
        """Become the caller. Return whether children are in another pid namespace then.

        Its pid and network namespace are entered with `pids` only. `moved`: the pid, in its pid
        namespace, that is written to a list.
        """
        user, cgroup = self._namespace("user"), self._namespace("cgroup")
        inside = False
        if pids and (number := self._namespace("pid")) >= 0:
            _check(_libc.setns(number, _CLONE_NEWPID))
            if (net := self._namespace("net")) >= 0:
                _check(_libc.setns(net, _CLONE_NEWNET))
            inside = True
        if cgroup >= 0:
            _check(_libc.setns(cgroup, _CLONE_NEWCGROUP))
        who = self.who
        if user >= 0 and moved:
            who = who._replace(euid=self._euid_to_move(moved))
        if inside:
            confinement.bound_memory()
            os.chroot(".")  # the helper's empty directory
        capabilities = own_capabilities()
        _prctl(_PR_SET_KEEPCAPS, 1)
        os.setgroups(who.groups)
        os.setresgid(who.egid, who.egid, who.egid)
        os.setresuid(who.euid, who.euid, who.euid)
        _set_capabilities(capabilities, capabilities)  # with another euid the effective are gone
        if who.fsgid != who.egid:
            _libc.setfsgid(who.fsgid)
        if who.fsuid != who.euid:
            _libc.setfsuid(who.fsuid)
        if user >= 0:
            # All capabilities there, and none here.
            _check(_libc.setns(user, _CLONE_NEWUSER))
            capabilities = who.caps
        capabilities &= who.caps
        _set_capabilities(capabilities, capabilities)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _prctl(_PR_SET_DUMPABLE, 0)
        return inside

    def _euid_to_move(self, moved: int) -> int:
        """Return the effective uid with which v1 lets the caller move a process.

        v1 wants the uid of the process (cgroup1_procs_write, kernel/cgroup/cgroup-v1.c), or the
        host's root. A container's root may become every user of its user namespace, so it moves
        their processes as well. Before Linux 6.11 the process cannot be found: then only its own.
        """
        who = self.who
        try:
            if who.caps & _CAP_SETUID:
                pid = fcntl.ioctl(self._spaces["pid"], _NS_GET_PID_FROM_PIDNS, moved)
                with open(f"/proc/{pid}/status", "rb") as file:
                    uid = Credentials.parse(file.read()).uid
                self.id_inside(uid, 0)
                return uid
        except (OSError, OverflowError):
            pass  # the kernel refuses what is no pid
        return who.euid

    def id_inside(self, number: int, kind: int) -> int:
        """Return the id (0: user, 1: group) in the caller's user namespace for one of the host.

        Raise OSError(EPERM) where that has none.
        """
        if number < 0 or self._maps is None:
            return number
        for line in self._maps[kind].splitlines():
            first, outside, count = map(int, line.split())
            if outside <= number < outside + count:
                return first + number - outside
        raise OSError(errno.EPERM, "the id has no place in the user namespace")


def pid_in(data: bytes) -> int:
    """Return the pid that is written to a list. Raise OSError(EINVAL).

    Decimal only. The kernel (kstrtoint with base 0) takes a sign, 0x, and a leading 0 for octal:
    nobody writes those, and each is one more way to say 0, which is the writer.
    """
    text = data.partition(b"\0")[0].strip()
    if not _PID.fullmatch(text):
        raise OSError(errno.EINVAL, "not a decimal pid")
    return int(text)


def _received(stream: socket.socket) -> tuple[dict[str, Any], bytes]:
    """Receive a request to its end. Raise ValueError where the server has ended before that."""
    message = b""
    while part := stream.recv(65536):
        message += part
    head, _, data = message.partition(b"\n")
    request: dict[str, Any] = json.loads(head)
    if len(data) != request["size"]:
        raise ValueError("a part of the data is missing")
    return request, data


def _do(answer: socket.socket, proc: int, own: int) -> None:
    """Do what is asked, as the caller, and send the answer. Raise OSError."""
    request, data = _received(answer)
    lists, name, number = request["lists"], request["name"], request["number"]
    caller = Impersonation(proc)
    if caller.rights != bytes.fromhex(request["rights"]):
        raise OSError(errno.EACCES, "the caller has other rights now")
    if lists and caller.is_elsewhere:
        _leave_lifeline()
    moved = 0
    if lists and request["do"] == "write":
        moved = pid_in(data) or getattr(caller.who, lists)  # 0 is the caller itself
        data = b"%d" % moved
    inside = caller.take(pids=bool(lists), moved=moved)
    where = open_beneath(own, request["path"], os.O_PATH | os.O_DIRECTORY)
    if number and os.fstat(where).st_ino != number:
        raise OSError(errno.ESTALE, "another cgroup has the name now")
    match request["do"]:
        case "mkdir":
            os.mkdir(name, request["mode"], dir_fd=where)
        case "rmdir":
            os.rmdir(name, dir_fd=where)
        case "chmod":
            os.chmod(name, request["mode"], dir_fd=where)
        case "chown":
            uid, gid = (caller.id_inside(request[key], i) for i, key in enumerate(("uid", "gid")))
            os.chown(name, uid, gid, dir_fd=where, follow_symlinks=False)
        case "read" | "write" as kind:
            flags = os.O_RDONLY if kind == "read" else os.O_WRONLY
            file = open_beneath(where, name, flags)

            def transfer() -> None:
                if kind == "read":
                    _copy(file, answer, request["most"])
                elif os.write(file, data) == len(data):
                    answer.sendall(b"+")

            if inside:
                # v1's cpuset compares the writer's capabilities with those of the process.
                kept = _CAP_SYS_NICE & own_capabilities() if kind == "write" else 0
                _set_capabilities(kept, kept)
                _inside(transfer, file, answer)
            else:
                transfer()
            return
    answer.sendall(b"+")


def _copy(file: int, answer: socket.socket, most: int) -> None:
    """Send a file from its start to its end; the errno of the first read is the answer."""
    part = os.read(file, 65536)
    answer.sendall(b"+" + part)
    while part and most > 0:
        most -= len(part)
        part = os.read(file, 65536)
        answer.sendall(part)


def _inside(transfer: Callable[[], None], file: int, answer: socket.socket) -> None:
    """Read or write in a process of the pid namespace, with little else open. Do not return."""
    kept = sorted((-1, file, answer.fileno()))
    for before, last in zip(kept, (*kept[1:], _MOST_DESCRIPTORS), strict=True):
        os.closerange(before + 1, last)
    if not confinement.allow_only("read", "write", "sendto"):
        raise OSError(errno.EOPNOTSUPP, "no seccomp filter for this machine")
    child = os.fork()
    if child == 0:
        _answering(answer, transfer)
    else:
        os.waitpid(child, 0)
    os._exit(0)


def _answering(answer: socket.socket, work: Callable[[], None]) -> None:
    """Do some work that answers; an error is the answer where it fails."""
    try:
        work()
    except OSError as error:
        _send_error(answer, error)
    except (LookupError, ValueError):
        _send_error(answer, OSError(errno.EIO, "a malformed request or file"))


def _send_error(answer: socket.socket, error: OSError) -> None:
    with contextlib.suppress(OSError):
        answer.sendall(b"-%d" % (error.errno or errno.EIO))


def _follow(lifeline: int) -> None:
    """Have this process's group killed when no process has the write end of a pipe any more."""
    os.dup2(lifeline, _LIFELINE)
    fcntl.fcntl(_LIFELINE, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(_LIFELINE, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(_LIFELINE, fcntl.F_SETFL, os.O_ASYNC)


def _leave_lifeline() -> None:
    """Go on in a child without it. When that ends, so does what it has forked."""
    child = os.fork()
    if child:
        os.closerange(_LIFELINE + 1, _MOST_DESCRIPTORS)
        os.waitpid(child, 0)
        os.killpg(0, signal.SIGKILL)
    os.close(_LIFELINE)


def _child(descriptors: list[int]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.umask(0)  # the kernel has applied the caller's
    stream, proc, own = descriptors
    with socket.socket(fileno=stream) as answer:
        _answering(answer, lambda: _do(answer, proc, own))


class _Children:
    """Children that have not ended, by process group: each leads that of what it forks.

    The number of a group is not given again while a process is in it.
    """

    def __init__(self) -> None:
        #: The request's key, when it is killed (CLOCK_MONOTONIC), and the lifeline's write end.
        self._running: dict[int, tuple[Any, float, int]] = {}

    def start(self, message: bytes, descriptors: list[int], connection: socket.socket) -> None:
        """Fork a child for a request. Raise OSError(EAGAIN) if there are too many."""
        request = json.loads(message)
        self._forget_ended()
        mine = [key for key, _, _ in self._running.values()].count(request["key"])
        if len(self._running) >= _MOST_CHILDREN or mine >= _MOST_EACH:
            raise OSError(errno.EAGAIN, "too many operations have not ended")
        deadline = time.monotonic() + (request["timeout_s"] or math.inf)
        lifeline, held = os.pipe()
        try:
            child = os.fork()
            if child == 0:
                try:
                    os.setpgid(0, 0)
                    _follow(lifeline)
                    connection.close()
                    # Only now: if the helper has ended meanwhile, this closes the last write end.
                    for number in (lifeline, held, *(end for _, _, end in self._running.values())):
                        os.close(number)
                    _child(descriptors)
                finally:
                    os._exit(0)
        except OSError:
            os.close(held)
            raise
        finally:
            os.close(lifeline)
        with contextlib.suppress(ProcessLookupError):
            os.setpgid(child, child)  # whichever of the two is first
        self._running[child] = request["key"], deadline, held

    def _forget_ended(self) -> None:
        # SIGCHLD stays as it is: the kernel would give the number of a group again before it is
        # forgotten here, and another one would be killed.
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        for group in list(self._running):
            if not _signal(group, 0):
                os.close(self._running.pop(group)[2])

    def kill_late(self) -> float | None:
        """Kill those that take too long. Return the milliseconds until it is to be called again."""
        self._forget_ended()
        now = time.monotonic()
        for group, (key, deadline, held) in self._running.items():
            if deadline <= now:
                _signal(group, signal.SIGKILL)
                self._running[group] = key, math.inf, held  # a tracer may keep it from its end
        first = min((deadline for _, deadline, _ in self._running.values()), default=math.inf)
        return min((first - now) * 1000, _REAP_MS) if self._running else None


def _signal(group: int, number: int) -> bool:
    """Send a signal to a process group. Return whether there is one."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def serve(connection: socket.socket) -> None:
    """Answer until the other end closes: "+" for a request that a child has."""
    _prctl(_PR_SET_DUMPABLE, 0)
    children = _Children()
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    connection.send(b"+")
    while True:
        if not poll.poll(children.kill_late()):
            continue
        message, descriptors, _, _ = socket.recv_fds(connection, _REQUEST_SIZE, 3)
        if not message:
            return
        if len(descriptors) != 3:  # this process has too many open
            for descriptor in descriptors:
                os.close(descriptor)
            connection.send(b"-descriptors are missing")
            continue
        try:
            children.start(message, descriptors, connection)
        except OSError as error:
            with socket.socket(fileno=os.dup(descriptors[0])) as answer:
                _send_error(answer, error)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        connection.send(b"+")


if __name__ == "__main__":
    with (
        contextlib.suppress(ConnectionError),  # from a server that was killed
        socket.socket(fileno=int(sys.argv[1])) as _connection,
    ):
        serve(_connection)
