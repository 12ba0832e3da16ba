"""The rescue server: answers a mount with the host's files.

It runs where no server can be had, because a reader cannot even be killed while its request waits
for an answer. The keeper forks (the code is loaded already: a broken installation does not matter)
one process of this for each connection. It speaks just as much of the protocol as its mount needs,
and finds no containers:

    own        no OPEN. A page is filled with newlines behind its text
    caller     OPEN with direct I/O; a READ that would fill a page is refused
    previous   the mount of a version before the caller mount: the tree of `own`, with OPEN

Nodes below a container's directory are looked up as the host's, since only servers know
generations; no name is cached, so the next server finds the containers' own nodes again. Standard
library only. When to start and end it is the keeper's business.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import stat
import time
from collections.abc import Iterator, Sequence
from typing import Final

from pylxcfs.fuse import wire
from pylxcfs.keeper import child, fusemount
from pylxcfs.tree import nodes
from pylxcfs.tree.sysfs import Entry, SysTree

PREVIOUS: Final = "previous"

_DIRECTORY: Final = stat.S_IFDIR | 0o555
_LINK: Final = stat.S_IFLNK | 0o777
_FILE: Final = stat.S_IFREG | 0o444
#: A rendering is shown for so long, so that a size and the text behind it agree.
_LIFE_NS: Final = 100_000_000
#: Renderings that are kept: handles that are never read again are forgotten.
_MOST_TEXTS: Final = 512
_MOST_BYTES: Final = 1 << 22
_BUFFER: Final = 1 << 18
#: SETATTR to LINK, UNLINK, WRITE, CREATE, RENAME2: what would change something.
_CHANGES: Final = frozenset({4, 6, 8, 9, 10, 11, 12, 13, 16, 35, 45})
#: What poll(2) returns for a file that cannot be polled (DEFAULT_POLLMASK).
_POLL_ALWAYS: Final = 0x145


class Rescue:
    """The answers of one mount."""

    def __init__(
        self, kind: str, files: Sequence[str], root: str = "/", *, devices: bool = False
    ) -> None:
        """Answer with files below `root`; `files[i]` is that of view i ("proc/meminfo")."""
        self._kind = kind
        self._files = files
        self._root = root
        self._sysfs = SysTree(root, devices=devices)
        self._texts: dict[tuple[int, int], tuple[int, bytes]] = {}  # (index, handle): born, text
        self._handles = 0
        self._host = 0 if kind == fusemount.CALLER else _host_pair()
        self._own = b"by-pidns" if kind == PREVIOUS else b"own"
        served = {
            path: nodes.FILES + i
            for i, path in enumerate(files)
            if os.path.exists(os.path.join(root, path))
        }
        self._children, self._links = nodes.names(served | self._sysfs.roots())
        self._children[nodes.OWN] = {b"host": nodes.VIEW_ROOT}
        if kind == fusemount.CALLER:
            self._children[nodes.ROOT] = self._children[nodes.VIEW_ROOT]
        elif kind == PREVIOUS:
            self._children[nodes.ROOT][self._own] = self._children[nodes.ROOT].pop(b"own")

    def answer(self, request: bytes) -> bytes | None:
        """Return the reply to a request; None where the kernel expects none."""
        _, opcode, unique, node, *_ = wire.IN_HEADER.unpack_from(request)
        if opcode in wire.UNANSWERED:
            return None
        try:
            return wire.data_reply(unique, self._answer(opcode, node, request))
        except OSError as error:
            return wire.error_reply(unique, error.errno or errno.EIO)
        except (ValueError, LookupError):
            return wire.error_reply(unique, errno.EIO)

    def _answer(self, opcode: int, node: int, request: bytes) -> bytes:
        """Return the data of the answer. Raise OSError with the errno of any other."""
        index, body = nodes.index_of(node), wire.IN_HEADER.size
        if self._kind == fusemount.CALLER and nodes.is_cgroup(node):
            # After another error the kernel would drop the name, with what is mounted there.
            number = errno.ENOMEM if opcode == wire.LOOKUP else errno.EIO
            raise OSError(number, "nobody can work on cgroups for the caller now")
        if opcode == wire.LOOKUP:
            index = self._child(index, request[body:].rstrip(b"\0"))
            found = self._node(index)
            number = nodes.inode_number(found)
            return wire.entry_out(found, 0, number, self._attributes(index), 0)
        if opcode == wire.GETATTR:
            return wire.attr_out(nodes.inode_number(node), self._attributes(index))
        if opcode == wire.READLINK:
            return self._target(index)
        if opcode == wire.OPEN and self._kind != fusemount.OWN:
            # In the layout of earlier handles a small number is one of the host's view.
            self._handles = self._handles % 0xFFFF + 1
            return wire.OPEN_OUT.pack(self._handles, wire.FOPEN_DIRECT_IO)
        if opcode == wire.READ:
            handle, offset, size, flags = wire.READ_IN.unpack_from(request, body)
            fills_page = not flags & wire.READ_LOCKOWNER
            if fills_page and self._kind == fusemount.CALLER:
                raise OSError(errno.EINVAL, "the page would be shared by all")
            data = self._text(index, handle, offset)[offset : offset + size]
            return data.ljust(size, b"\n") if fills_page else data
        if opcode in (wire.READDIR, wire.READDIRPLUS):
            _, offset, size, _ = wire.READ_IN.unpack_from(request, body)
            return self._listing(index, offset, size, opcode)
        if opcode == wire.OPENDIR:
            return wire.OPEN_OUT.pack(0, 0)
        if opcode == wire.STATFS:
            return wire.STATFS_OUT
        if opcode == wire.RELEASE:
            self._texts.pop((index, wire.RELEASE_IN.unpack_from(request, body)[0]), None)
        if opcode in (wire.RELEASE, wire.RELEASEDIR, wire.FLUSH, wire.ACCESS):
            return b""
        if self._kind == fusemount.OWN or opcode == wire.STATX:
            raise OSError(errno.ENOSYS, "OPEN and others: never sent again")
        # ENOSYS would hold for the life of the connection, and so for the servers to come.
        if opcode == wire.POLL:
            return wire.POLL_OUT.pack(_POLL_ALWAYS)
        number = errno.EPERM if opcode in _CHANGES else errno.EOPNOTSUPP
        raise OSError(number, os.strerror(number))

    def _child(self, index: int, name: bytes) -> int:
        if index < nodes.SYSFS:
            found = self._children.get(index, {}).get(name)
        else:
            found = self._sysfs.index(f"{self._path(index)}/{os.fsdecode(name)}")
        if found is None:
            raise OSError(errno.ENOENT, "no such name")
        return found

    def _node(self, index: int) -> int:
        """Return the node that has this index in the host's directory, as servers number it."""
        is_shared = index < nodes.VIEW_ROOT or nodes.LINKS <= index < nodes.FILES
        return nodes.node(0 if is_shared else self._host, index)

    def _path(self, index: int) -> str:
        """Return the host's path of a file, or of anything below sysfs."""
        number = index - nodes.FILES
        path = self._sysfs.path(index) if index >= nodes.SYSFS else None
        if 0 <= number < len(self._files):
            path = self._files[number]
        if path is None:
            raise OSError(errno.ESTALE, "no such file")
        return path

    def _attributes(self, index: int) -> wire.Attributes:
        """Return attributes, valid for no time: a server that is back answers the next reader."""
        if index in self._children:
            return wire.Attributes(_DIRECTORY, 0, 0, 0)
        if index in self._links:
            return wire.Attributes(_LINK, 0, 0, 0)
        try:
            mode = self._sysfs.lstat(self._path(index)).st_mode & ~0o222
        except OSError:
            if index >= nodes.SYSFS:
                raise
            mode = _FILE  # a READ says what is wrong
        if not stat.S_ISREG(mode):
            return wire.Attributes(mode, 0, 0, 0)
        try:
            size = len(self._text(index, 0, 0))
        except OSError:
            size = 0  # a READ says what is wrong
        born, _ = self._texts.get((index, 0), (time.time_ns(), b""))
        return wire.Attributes(mode, size, born, 0)

    def _text(self, index: int, handle: int, offset: int) -> bytes:
        """Return a rendering; a reader in pieces keeps its own.

        It gets another one when it returns to offset 0.
        """
        now = time.time_ns()
        born, text = self._texts.get((index, handle), (0, b""))
        if not born or (not offset and not 0 <= now - born < _LIFE_NS):
            try:
                with open(os.path.join(self._root, self._path(index)), "rb", buffering=0) as file:
                    text = b"".join(_pieces(file.fileno()))
            except OSError as error:
                raise OSError(errno.EIO, "the host's file cannot be read") from error
            while len(self._texts) >= _MOST_TEXTS:
                del self._texts[next(iter(self._texts))]
            self._texts[index, handle] = now, text
        return text

    def _target(self, index: int) -> bytes:
        path = self._links.get(index)
        if path is None:
            return self._sysfs.readlink(self._path(index))
        return b"../" * path.count("/") + self._own + b"/host/" + path.encode()

    def _listing(self, index: int, offset: int, size: int, opcode: int) -> bytes:
        # An entry without a node id gives no attributes (fuse_direntplus_link).
        prefix = bytes(128) if opcode == wire.READDIRPLUS else b""
        data = b""
        for position, item in enumerate(self._entries(index)[offset:], offset + 1):
            number = nodes.inode_number(self._node(item.number))
            entry = prefix + wire.dirent(number, position, item.mode, item.name)
            if len(data) + len(entry) > size:
                break
            data += entry
        return data

    def _entries(self, index: int) -> list[Entry]:
        found = self._children.get(index)
        if found is None:
            return self._sysfs.entries(self._path(index))
        return [Entry(name, number, self._kind_of(number)) for name, number in found.items()]

    def _kind_of(self, index: int) -> int:
        if index in self._links:
            return _LINK
        return _FILE if nodes.FILES <= index < nodes.SYSFS else _DIRECTORY


def _host_pair() -> int:
    try:
        return nodes.pair((os.stat("/proc/self/ns/pid").st_ino, 0))
    except (OSError, ValueError):
        return 0


def _pieces(number: int) -> Iterator[bytes]:
    total = 0
    while total < _MOST_BYTES and (piece := os.read(number, 65536)):
        total += len(piece)
        yield piece


def serve(kind: str, connection: int, files: Sequence[str], devices: bool) -> int:
    """Answer a connection until it ends or SIGTERM comes.

    Runs in a process of its own. read(2) is called directly: os.read would go on with it after a
    signal. SIGTERM is handled between two requests, so none is lost.
    """
    child.set_name("pylxcfs-rescue")
    child.close_others(connection)
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    rescue = Rescue(kind, files, devices=devices)
    fusemount.resend(connection)
    buffer = ctypes.create_string_buffer(_BUFFER)
    # As servers do (fuse/queue.py): the flag belongs to the open file that all share.
    os.set_blocking(connection, False)
    woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake)  # SIGTERM ends poll(2), too
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    poller.register(woken, select.POLLIN)
    while not told:
        length = fusemount.libc.read(connection, buffer, _BUFFER)
        if length < 0:
            if ctypes.get_errno() == errno.EAGAIN:
                poller.poll()
                continue
            if ctypes.get_errno() in (errno.EINTR, errno.ENOENT):
                continue
            return 0 if ctypes.get_errno() in (errno.ENODEV, errno.ECONNABORTED) else 1
        reply = rescue.answer(ctypes.string_at(buffer, length))
        if reply is not None:
            try:
                os.write(connection, reply)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return 0  # ENOENT: the reader was interrupted, or it was handed out again
    return 0
