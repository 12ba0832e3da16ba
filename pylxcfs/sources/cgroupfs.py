"""cgroupfs as a caller may see and change it: its own cgroup and what is below.

    hierarchy/
      lxc/            above the caller's cgroup: a name and nothing else
        ct/           its own cgroup: values are read; processes and children are changed
          a/          below: everything that the kernel allows the caller
        other/        not there

A cgroup is named by hierarchy and st_ino of its directory, which the kernel gives once, and opened
by that (kernfs_fh_to_dentry, fs/kernfs/mount.c). v1 renames a cgroup below the same parent only,
and v2 not at all, so what is above a cgroup never changes. What is done happens by openat2(2) below
a descriptor of the caller's own cgroup, and is refused where that leads to another directory.

Values are read by the server. What changes something, and lists of processes, are a matter of
ascaller.py, where the kernel decides. Each method may block, and raises OSError.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import hashlib
import json
import os
import re
import select
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pylxcfs.errors import PylxcfsError, SourceError
from pylxcfs.formats.mountinfo import Mount
from pylxcfs.formats.pidcgroup import UNIFIED
from pylxcfs.sources import ascaller
from pylxcfs.sources.ascaller import open_beneath
from pylxcfs.sources.cgroups import Hierarchies, Paths, names_in
from pylxcfs.sources.helper import HelperProcess
from pylxcfs.sources.identity import FairKey, fair_key, outermost
from pylxcfs.sources.kept import Descriptor
from pylxcfs.sources.registry import Registry

#: struct file_handle with the 64-bit number of kernfs (FILEID_KERNFS).
_HANDLE: Final = struct.Struct("=IiQ")
_FILEID_KERNFS: Final = 0xFE

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW

#: The files of its own cgroup that a caller may write: those that the kernel's documentation of
#: delegation names (/sys/kernel/cgroup/delegate), and v1's of the same kind. The others are the
#: limits that were set for it.
_DELEGATED: Final = frozenset(
    {
        "cgroup.procs",
        "cgroup.threads",
        "cgroup.subtree_control",
        "memory.oom.group",
        "memory.reclaim",
        "tasks",
        "cgroup.clone_children",
        "notify_on_release",
    }
)
#: Files that list processes, and whether by process or by thread.
_LISTS: Final = {"cgroup.procs": "tgid", "tasks": "pid", "cgroup.threads": "pid"}
#: What is written there belongs to the writer's descriptors (an eventfd, a trigger). Not so of
#: cgroup.pressure, which switches the accounting of pressure on and off. memory.peak and
#: memory.swap.peak are reset for one descriptor (Linux 6.12).
_BOUND_TO_WRITER: Final = ("cgroup.event_control", ".pressure", ".peak")
_SWITCH: Final = "cgroup.pressure"

#: An answer with an error. From a FUSE server the kernel takes numbers below 512
#: (fuse_dev_do_write, fs/fuse/dev.c).
_ERROR: Final = re.compile(rb"-([1-9][0-9]{0,2})")
_MOST_ERROR: Final = 512

#: The longest text: a list of half a million processes.
_MOST_TEXT: Final = 4 << 20

#: Seconds that the helper has to fork and to start, and an operation beyond its own limit.
_FORK_S, _START_S, _GRACE_S = 5.0, 30.0, 0.5

#: Capabilities by their bits (include/uapi/linux/capability.h).
_NEEDED: Final = {
    "CAP_DAC_READ_SEARCH": 1 << 2,
    "CAP_KILL": 1 << 5,
    "CAP_SETGID": 1 << 6,
    "CAP_SETUID": 1 << 7,
    "CAP_SYS_CHROOT": 1 << 18,
    "CAP_SYS_ADMIN": 1 << 21,
}

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A mounted hierarchy that is served."""

    #: Its name in the tree, and the key of its paths ("memory", "name=systemd", "" for v2).
    name: str
    key: str
    mount: Mount
    #: Controllers that are links to it.
    aliases: tuple[str, ...]
    #: Its root, open for openat2 and open_by_handle_at.
    root: Descriptor

    @property
    def attributes(self) -> os.stat_result:
        """Return the attributes of the root's directory."""
        return os.fstat(self.root.number)


class CgroupFiles:
    """The hierarchies that are mounted here, and what callers do there.

    `timeout_s`: how long an operation may take, 0 for ever.
    """

    def __init__(self, hierarchies: Hierarchies, registry: Registry, timeout_s: float) -> None:
        self._hierarchies = hierarchies
        self._registry = registry
        self.timeout_s = timeout_s
        self.helper = HelperProcess(ascaller.__file__, _FORK_S, _START_S)
        self.served = _served(hierarchies)

    def start(self) -> None:
        """Start the helper, so that the first request finds it ready.

        Raise SourceError where something is missing: a capability, or a system call (Linux 5.6; the
        sandbox of a service manager).
        """
        own = ascaller.own_capabilities()
        lacking = [name for name, bit in _NEEDED.items() if not own & bit]
        if lacking:
            raise SourceError(f"capabilities are missing: {' '.join(lacking)}")
        for hierarchy in self.served.values():
            try:
                _find(hierarchy, hierarchy.attributes.st_ino)
                _beneath(hierarchy.root, ".", _DIRECTORY)
            except OSError as error:
                text = f"open_by_handle_at(2) or openat2(2) in {hierarchy.mount.mountpoint}"
                raise SourceError(f"{text}: {error}") from error
        self.helper.start()

    # -- where a caller is -----------------------------------------------------------------------

    def caller(self, pid: int) -> Caller:
        """Return the process with that pid."""
        proc = Descriptor(os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        own = self._registry.host_identity.pidns
        # A program with the set-user-ID bit counts for the user that runs it.
        uid = ascaller.real_uid(proc.number) if outermost(pid, own) == own else 0
        return Caller(pid, fair_key(pid, uid, own), proc, self)

    def key(self, pid: int) -> FairKey:
        """Return the key of the process with that pid. Raise OSError if it has ended."""
        return self.caller(pid).key

    def own(self, hierarchy: Hierarchy, pid: int) -> tuple[str, ...]:
        """Return a caller's own cgroup: that of its container, which it is in or below.

        A process of a container that is elsewhere (of a pod with one pid namespace, or entered
        from the host), and a process of the host, have the one they are in.
        """
        try:
            identity = self._registry.identify(pid)
            if identity is None:
                raise SourceError(f"/proc/{pid}/ns/pid cannot be read")
            here = self._hierarchies.paths_of(pid)
            mine = _names(hierarchy, here)
            if identity.pidns == self._registry.host_identity.pidns:
                return mine
            container = self._registry.get(identity, pid)
            paths = container.paths() if container is not None else here
        except PylxcfsError as error:
            raise OSError(errno.EACCES, str(error)) from error
        whole = _names(hierarchy, paths)
        own, paths = (whole, paths) if mine[: len(whole)] == whole else (mine, here)
        if not own or not self._is_its_own(hierarchy, paths):
            raise OSError(errno.EACCES, "the container has no cgroup of its own there")
        return own

    def _is_its_own(self, hierarchy: Hierarchy, paths: Paths) -> bool:
        """Return whether a v2 cgroup is the container's own, on hosts that have v1, too.

        There engines may make v1 cgroups alone, and all their containers share a v2 cgroup. One
        that was made for the container has the same path as in another hierarchy.
        """
        if hierarchy.key != UNIFIED or self._hierarchies.unified(paths) is not None:
            return True
        others = (path for key, path in paths.items() if key != UNIFIED)
        return paths[UNIFIED] in others


@dataclass(frozen=True, slots=True)
class Caller:
    """A process that asks for something, and no later one with its pid."""

    pid: int
    #: What limits go by.
    key: FairKey
    #: Its directory in /proc.
    proc: Descriptor
    files: CgroupFiles
    #: A digest of what it may do (ascaller.py): nothing is done for it once that is another.
    rights: bytes = b""

    def with_rights(self) -> Caller:
        """Return it with the rights that it has now. Raise OSError if it has ended."""
        return dataclasses.replace(self, rights=ascaller.rights_of(self.proc.number))

    def view(self, hierarchy: str, number: int) -> CallerView:
        """Return a cgroup as the caller sees it; `hierarchy` is a key of `served`."""
        found = self.files.served[hierarchy]
        own = self.files.own(found, self.pid)
        self.check_alive()
        return CallerView(own, _find(found, number), number, found.root, self)

    def check_alive(self) -> None:
        """Raise OSError if it has ended, so that what was read by its pid may be another's."""
        os.stat("status", dir_fd=self.proc.number)


@dataclass(frozen=True, slots=True)
class CallerView:
    """A cgroup as one caller sees it."""

    #: The caller's own cgroup, by names from the hierarchy's root.
    own: tuple[str, ...]
    #: The cgroup.
    names: tuple[str, ...]
    number: int
    #: The hierarchy's root.
    root: Descriptor
    caller: Caller

    @property
    def inside(self) -> bool:
        """Whether it is the caller's own cgroup or below that."""
        return self.names[: len(self.own)] == self.own

    @property
    def is_own(self) -> bool:
        """Whether it is the caller's own cgroup."""
        return self.names == self.own

    @property
    def next(self) -> str | None:
        """The one name that the caller sees in a cgroup above its own; None for any other."""
        depth = len(self.names)
        above = depth < len(self.own) and self.own[:depth] == self.names
        return self.own[depth] if above else None

    @property
    def path(self) -> str:
        """The cgroup's path below the caller's own."""
        return "/".join(self.names[len(self.own) :])

    def _open_own(self) -> Descriptor:
        """Open the caller's own cgroup."""
        return _beneath(self.root, "/".join(self.own), _DIRECTORY)

    def _open(self) -> Descriptor:
        """Open the cgroup, from the caller's own. It has to be inside."""
        found = _beneath(self._open_own(), self.path, _DIRECTORY)
        if os.fstat(found.number).st_ino != self.number:
            raise OSError(errno.ESTALE, "another cgroup has the name now")
        return found

    # -- what is there ---------------------------------------------------------------------------

    def stat(self, name: str = "") -> os.stat_result:
        """Return the attributes of a cgroup, or of a file or cgroup in it.

        Raise OSError(EACCES) for what is neither inside nor on the way to the caller's own cgroup.
        """
        if self.inside:
            directory = self._open()
            return os.stat(name or ".", dir_fd=directory.number, follow_symlinks=False)
        if self.next is None or name not in ("", self.next):
            raise OSError(errno.EACCES, "outside of the caller's own cgroup")
        path = "/".join([*self.names, name]).rstrip("/")
        directory = _beneath(self.root, path, _DIRECTORY)
        return os.fstat(directory.number)

    def entries(self, after: int) -> Iterator[tuple[int, str, os.stat_result]]:
        """List (st_ino, name, attributes) of what a caller sees there behind st_ino `after`.

        Numbers grow, so a listing in several parts that goes on behind a number leaves out nothing
        that was there all the time. Attributes are read as they are asked for.
        """
        if not self.inside:
            if self.next is not None:
                found = self.stat(self.next)
                if found.st_ino > after:
                    yield found.st_ino, self.next, found
            return
        directory = self._open()  # with O_PATH it cannot be listed
        readable = _beneath(directory, ".", os.O_RDONLY | os.O_DIRECTORY)
        with os.scandir(readable.number) as entries:
            numbers = [(entry.inode(), entry.name) for entry in entries]
        for number, name in sorted(found for found in numbers if found[0] > after):
            try:
                found = os.stat(name, dir_fd=readable.number, follow_symlinks=False)
            except FileNotFoundError:
                continue
            yield number, name, found

    def check_open(self, name: str, *, write: bool) -> None:
        """Raise OSError where a file may not be opened, whatever its mode."""
        if not self.inside:
            raise OSError(errno.EACCES, "outside of the caller's own cgroup")
        if write and name.endswith(_BOUND_TO_WRITER) and name != _SWITCH:
            raise OSError(errno.EOPNOTSUPP, "it belongs to the process that writes it")
        if write and self.is_own and name not in _DELEGATED:
            raise OSError(errno.EACCES, "a limit of the caller's own cgroup")

    def read(self, name: str) -> bytes:
        """Return the text of a file, with pids of the caller's pid namespace."""
        self.check_open(name, write=False)
        if name in _LISTS:
            return self._as_caller(name, do="read")
        file = _beneath(self._open(), name, os.O_RDONLY)
        text = b""
        while part := os.read(file.number, _MOST_TEXT):
            text += part
            if len(text) > _MOST_TEXT:
                raise OSError(errno.EFBIG, "the text is too long")
        return text

    # -- what the kernel decides -----------------------------------------------------------------

    def write(self, name: str, data: bytes) -> None:
        """Write to a file as the caller; pids are those of its pid namespace."""
        self.check_open(name, write=True)
        self._as_caller(name, data, do="write")

    def mkdir(self, name: str, mode: int) -> None:
        """Make a cgroup as the caller."""
        self._change(name, do="mkdir", mode=mode)

    def rmdir(self, name: str) -> None:
        """Remove a cgroup as the caller."""
        self._change(name, do="rmdir")

    def chmod(self, name: str, mode: int) -> None:
        """Change a mode as the caller; without a name that of the cgroup's directory."""
        self._change_below(name, do="chmod", mode=mode)

    def chown(self, name: str, uid: int, gid: int) -> None:
        """Change an owner as the caller; -1 leaves it."""
        self._change_below(name, do="chown", uid=uid, gid=gid)

    def _change(self, name: str, **request: object) -> None:
        if not self.inside:
            raise OSError(errno.EACCES, "outside of the caller's own cgroup")
        self._as_caller(name, **request)

    def _change_below(self, name: str, **request: object) -> None:
        """Change an attribute, of nothing that was set for the caller."""
        if not self.inside or self.is_own:
            raise OSError(errno.EPERM, "not below the caller's own cgroup")
        self._as_caller(name or ".", **request)

    def _as_caller(self, name: str, *data: bytes, **request: object) -> bytes:
        """Have something done by a child of the helper. Raise OSError with what it answers."""
        own, proc = self._open_own(), self.caller.proc
        request |= {
            "path": self.path,
            "number": self.number,
            "name": name,
            "lists": _LISTS.get(name, "") if request["do"] in ("read", "write") else "",
            "most": _MOST_TEXT,
            "size": sum(map(len, data)),
            "rights": self.caller.rights.hex(),
        }
        message = b"\n".join([json.dumps(request).encode(), *data])
        # A digest: the helper's memory is in reach of containers, and paths of cgroups can be long.
        key = hashlib.blake2b(repr(self.caller.key).encode(), digest_size=16).hexdigest()
        head = json.dumps({"timeout_s": self.caller.files.timeout_s, "key": key}).encode()
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                try:
                    self.caller.files.helper.ask(head, theirs.fileno(), proc.number, own.number)
                except SourceError as error:
                    raise OSError(errno.EIO, str(error)) from error
            with contextlib.suppress(ConnectionError):  # it has answered already, or was killed
                ours.sendall(message)
                ours.shutdown(socket.SHUT_WR)
            answer = self._answer(ours)
        if not answer.startswith(b"+"):
            # A container with CAP_SYS_PTRACE may have written it.
            match = _ERROR.fullmatch(answer)
            number = int(match[1]) if match else errno.EIO
            number = number if number < _MOST_ERROR else errno.EIO
            raise OSError(number, os.strerror(number))
        return answer[1:]

    def _answer(self, ours: socket.socket) -> bytes:
        deadline = (
            time.monotonic() + self.caller.files.timeout_s + _GRACE_S
            if self.caller.files.timeout_s
            else None
        )
        poll = select.poll()
        poll.register(ours, select.POLLIN)
        answer = bytearray()
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not poll.poll(None if left is None else left * 1000):
                raise TimeoutError(errno.ETIMEDOUT, "the operation took too long")
            try:
                part = ours.recv(1 << 16)
            except ConnectionResetError:  # it was killed before it read the request
                break
            if not part:
                break
            answer += part
            if len(answer) > _MOST_TEXT + 1:
                raise OSError(errno.EFBIG, "the text is too long")
        if not answer:  # its timer has ended it
            raise TimeoutError(errno.ETIMEDOUT, "the operation was ended")
        return bytes(answer)


def _beneath(directory: Descriptor, path: str, flags: int) -> Descriptor:
    return Descriptor(open_beneath(directory.number, path, flags))


def _names(hierarchy: Hierarchy, paths: Paths) -> tuple[str, ...]:
    """Return the path of a process's cgroup from the hierarchy's root. Raise OSError(EACCES)."""
    names = names_in(hierarchy.mount, paths.get(hierarchy.key) or None)
    if names is None:
        raise OSError(errno.EACCES, "the cgroup is outside of what is mounted here")
    return tuple(names)


def _find(hierarchy: Hierarchy, number: int) -> tuple[str, ...]:
    """Return the path of a cgroup from the hierarchy's root. OSError(ESTALE) if it is gone."""
    handle = _HANDLE.pack(8, _FILEID_KERNFS, number)
    found = _libc.open_by_handle_at(hierarchy.root.number, handle, _DIRECTORY | os.O_CLOEXEC)
    if found < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    directory = Descriptor(found)
    path = os.readlink(f"/proc/self/fd/{directory.number}")
    base = hierarchy.mount.mountpoint
    if not f"{path}/".startswith(f"{base}/"):
        raise OSError(errno.ESTALE, "the cgroup is outside of what is mounted here")
    return tuple(name for name in path[len(base) :].split("/") if name)


def _served(hierarchies: Hierarchies) -> dict[str, Hierarchy]:
    """Return the hierarchies by key. One that cannot be opened is left out."""
    mounts: dict[str, list[str]] = {}
    for key, mount in hierarchies.v1.items():
        mounts.setdefault(mount.mountpoint, []).append(key)
    found = {}
    for keys in mounts.values():
        name = ",".join(keys).removeprefix("name=")
        aliases = tuple(keys) if len(keys) > 1 else ()
        found[keys[0]] = (name, hierarchies.v1[keys[-1]], aliases)
    if hierarchies.v2 is not None:
        found[UNIFIED] = ("unified", hierarchies.v2, ())
    served = {}
    for key, (name, mount, aliases) in found.items():
        try:
            root = Descriptor(
                os.open(mount.mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            )
        except OSError:
            continue
        served[key] = Hierarchy(name, key, mount, aliases, root)
    return served
