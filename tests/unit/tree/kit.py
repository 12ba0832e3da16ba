"""A made-up machine: a host, its sysfs, containers behind the port, and both mounts' requests.

Containers, callers and texts are values; what is between the kernel's messages and those is real.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pylxcfs.errors import Refused, SourceError
from pylxcfs.fuse import memory, wire
from pylxcfs.fuse.connection import Handler, Request
from pylxcfs.fuse.store import Store
from pylxcfs.guard import Guard
from pylxcfs.tree import nodes
from pylxcfs.tree.caller import CallerMount
from pylxcfs.tree.callers import Callers
from pylxcfs.tree.contents import Contents
from pylxcfs.tree.names import Names
from pylxcfs.tree.own import OwnMount
from pylxcfs.tree.sysfs import CPU, MEMORY, NODE, SysTree
from pylxcfs.tree.triggers import Triggers
from pylxcfs.views.model import Container, CpuLimit, Host, Options, SysCpu
from pylxcfs.views.table import View
from tests.unit.views.fakes import FakeContainer, FakeHost

HOST, A, B = 4026531836, 4026532180, 4026532190
#: A process of each, by pid.
HOST_PID, A_PID, B_PID = 1, 10, 20
#: The time to live of a text, and what else is measured in.
MS = 1_000_000
S = 1000 * MS
TTL = 100 * MS
CALLER_MOUNT = "/run/pylxcfs/caller"
HOST_TEXT = b"MemTotal: the host's\n"
#: Flags of a READ into the buffer of its caller, which fills no page.
PRIVATE = wire.READ_LOCKOWNER
# Of include/uapi/linux/fuse.h, behind the header: fuse_entry_out up to its attributes,
# fuse_open_out, fuse_attr.
ENTRY = struct.Struct("=QQQQII")
OPEN = struct.Struct("=QI4x")
ATTR = struct.Struct("=QQQQQQIIIIIIIIII")


@dataclass(eq=False)
class FakeKnown(FakeContainer):
    """A container with the texts of its files."""

    epoch: int = 100
    texts: dict[str, bytes] = field(default_factory=dict)


@dataclass
class FakeContainers:
    """The port of callers and containers: everything is a value."""

    host_pidns: int = HOST
    processes: dict[int, tuple[int, int]] = field(default_factory=dict)
    live: dict[tuple[int, int], FakeKnown] = field(default_factory=dict)
    #: Containers that are not found yet unless a process of them asks.
    unknown: set[tuple[int, int]] = field(default_factory=set)
    #: What limits a host process.
    host_cgroups: dict[int, FakeKnown] = field(default_factory=dict)
    #: Processes that see the caller mount.
    sees: set[int] = field(default_factory=set)
    offsets: dict[int, int] = field(default_factory=dict)
    #: Threads in open(2).
    opening: set[int] = field(default_factory=set)
    compat: set[int] = field(default_factory=set)
    prewarmed: list[tuple[tuple[int, int], int]] = field(default_factory=list)
    #: Pipes that stand for pressure files, and who asked for them.
    triggers: list[tuple[tuple[int, int], int, str]] = field(default_factory=list)

    def identify(self, pid: int) -> tuple[int, int] | None:
        return self.processes.get(pid)

    def namespace(self, pid: int) -> int:
        return self.processes.get(pid, (0, 0))[0]

    def get(self, owner: tuple[int, int], pid: int) -> FakeKnown | None:
        found = self.live.get(tuple(owner))
        if found is not None and tuple(owner) in self.unknown:
            if self.processes.get(pid) != tuple(owner):
                return None
            self.unknown.discard(tuple(owner))
        return found

    def host_caller(self, pid: int) -> FakeKnown | None:
        return self.host_cgroups.get(pid)

    def sees_caller_mount(self, pid: int) -> bool:
        return pid in self.sees

    def prewarm(self, owner: tuple[int, int], pid: int) -> None:
        self.prewarmed.append((tuple(owner), pid))

    def offset(self, tid: int) -> int | None:
        return self.offsets.get(tid)

    def opens(self, tid: int) -> bool:
        return tid in self.opening

    def is_32bit(self, pid: int) -> bool:
        return pid in self.compat

    def open_trigger(self, owner: tuple[int, int], pid: int, path: str) -> int:
        self.triggers.append((tuple(owner), pid, path))
        if tuple(owner) not in self.live and owner[0] != self.host_pidns:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        read, write = os.pipe()
        os.close(read)
        return write

    def known(self) -> Iterable[tuple[int, int]]:
        return list(self.live)


class Bug(Exception):
    """What no code of ours expects."""


class Mount(Protocol):
    handlers: Mapping[int, Handler]

    def other(self, request: Request) -> bytes | None: ...

    def fallback(self, request: Request) -> bytes: ...


class Attr(NamedTuple):
    """What GETATTR answers."""

    ino: int
    mode: int
    nlink: int
    size: int
    mtime: int
    valid: int


class Entry(NamedTuple):
    """What LOOKUP answers."""

    node: int
    generation: int
    entry_valid: int
    attr: Attr


class Listed(NamedTuple):
    """One entry of READDIR."""

    name: bytes
    ino: int
    kind: int


class Asked:
    """Requests to one mount, answered as fuse/connection.py does."""

    def __init__(self, mount: Mount, guard: Guard) -> None:
        self.mount = mount
        self._guard = guard

    def request(self, opcode: int, node: int, pid: int, body: bytes = b"") -> tuple[int, bytes]:
        """Return the errno and the data of the answer."""
        request = (opcode, 77, node, pid, body)

        def answer() -> tuple[int, bytes]:
            handler = self.mount.handlers.get(opcode)
            try:
                data = handler(node, pid, body) if handler else self.mount.other(request)
            except Refused as refused:
                return refused.errno, b""
            assert data is not None
            return 0, data

        return self._guard.call("request", answer, lambda: self.fallback(opcode, node, pid, body))

    def fallback(self, opcode: int, node: int, pid: int, body: bytes = b"") -> tuple[int, bytes]:
        """Return what is answered where a handler failed, or by the watchdog."""
        try:
            return 0, self.mount.fallback((opcode, 77, node, pid, body))
        except Refused as refused:
            return refused.errno, b""
        except SourceError:
            return errno.EIO, b""

    def succeed(self, opcode: int, node: int, pid: int, body: bytes = b"") -> bytes:
        error, data = self.request(opcode, node, pid, body)
        assert error == 0, os.strerror(error)
        return data

    def error(self, opcode: int, node: int, pid: int, body: bytes = b"") -> int:
        error, data = self.request(opcode, node, pid, body)
        assert error
        assert data == b""
        return error

    def getattr(self, node: int, pid: int = A_PID, *, reads: bool = True) -> Attr:
        """Ask as read(2) does, or as open(2) and stat(2) do."""
        body = wire.GETATTR_IN.pack(wire.GETATTR_FH if reads else 0)
        return attributes(self.succeed(wire.GETATTR, node, pid, body))

    def read(
        self,
        node: int,
        offset: int = 0,
        size: int = 4096,
        pid: int = A_PID,
        flags: int = 0,
        handle: int = 0,
    ) -> bytes:
        return self.succeed(wire.READ, node, pid, read_in(handle, offset, size, flags))

    def lookup(self, parent: int, name: bytes, pid: int = A_PID) -> Entry:
        data = self.succeed(wire.LOOKUP, parent, pid, name + b"\0")
        node, generation, entry, valid, entry_ns, valid_ns = ENTRY.unpack_from(data)
        attr = fields(data[ENTRY.size :], valid * S + valid_ns)
        return Entry(node, generation, entry * S + entry_ns, attr)

    def walk(self, path: str, pid: int = A_PID) -> int:
        """Return the node of a path below the mount, links not followed."""
        node = nodes.ROOT
        for name in path.split("/"):
            node = self.lookup(node, name.encode(), pid).node
        return node

    def readlink(self, node: int, pid: int = A_PID) -> bytes:
        return self.succeed(wire.READLINK, node, pid)

    def readdir(self, node: int, pid: int = A_PID, size: int = 65536) -> list[Listed]:
        """List a directory as the kernel does, until it ends."""
        handle, _ = OPEN.unpack(self.succeed(wire.OPENDIR, node, pid, bytes(8)))
        found: list[Listed] = []
        offset = 0
        while data := self.succeed(wire.READDIR, node, pid, read_in(handle, offset, size)):
            while data:
                ino, offset, length, kind = wire.DIRENT.unpack_from(data)
                found.append(Listed(data[24 : 24 + length], ino, kind))
                data = data[(24 + length + 7) // 8 * 8 :]
        self.succeed(wire.RELEASEDIR, node, pid, bytes(24))
        return found

    def names(self, node: int, pid: int = A_PID) -> list[bytes]:
        return sorted(entry.name for entry in self.readdir(node, pid))


def read_in(handle: int, offset: int, size: int, flags: int = 0) -> bytes:
    return wire.READ_IN.pack(handle, offset, size, flags) + bytes(16)


def fields(data: bytes, valid: int) -> Attr:
    ino, size, _, _, mtime, _, _, nsec, _, mode, nlink, *_ = ATTR.unpack(data)
    return Attr(ino, mode, nlink, size, mtime * S + nsec, valid)


def attributes(data: bytes) -> Attr:
    valid = int.from_bytes(data[:8], "little") * S + int.from_bytes(data[8:12], "little")
    return fields(data[16:], valid)


def view(path: str, **values: Any) -> View:
    """A file that says what the container has for it; "bug" raises, and so may a source."""

    def render(host: Host, container: Container, options: Options) -> bytes:
        assert isinstance(container, FakeKnown)
        text = container.texts.get(path)
        if text is None:
            raise SourceError(path)
        if text == b"bug":
            raise Bug
        return text + (b"32 bits\n" if getattr(host, "is_32", False) else b"")

    return View(path=path, render=render, host=path, summary="", **values)


VIEWS = [
    view("proc/meminfo"),
    view("proc/loadavg", lives=10),
    view("proc/cpuinfo", by_personality=True),
    view("proc/pressure/cpu", writable=True),
    view("proc/secret"),
    view("proc/missing"),
]
MEMINFO, LOADAVG, CPUINFO, PRESSURE, SECRET = range(nodes.FILES, nodes.FILES + 5)
SYSFS_FILES = {
    f"{CPU}/online": b"0-1\n",
    f"{CPU}/cpu0/topology/core_id": b"0\n",
    f"{CPU}/cpu1/topology/core_id": b"1\n",
    f"{NODE}/online": b"0\n",
    f"{NODE}/node0/cpulist": b"0-1\n",
    f"{MEMORY}/block_size_bytes": b"8000000\n",
}


class World:
    """Both mounts over one made-up host; `next_server` keeps what outlives a server."""

    def __init__(self, root: Path, *, devices: bool = False) -> None:
        self.root = root
        self._devices = devices
        for row in VIEWS:
            if row.path != "proc/missing":
                place = root / row.path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.touch()
                place.chmod(0o400 if row.path == "proc/secret" else 0o644)
        for path, text in SYSFS_FILES.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(text)
        (root / CPU / "cpu0/subsystem").symlink_to("../../cpu")
        self.host = FakeHost({row.path: HOST_TEXT for row in VIEWS}, directory=root)
        self.host32 = FakeHost(dict(self.host.files), directory=root)
        self.host32.is_32 = True  # type: ignore[attr-defined]
        self.containers = FakeContainers()
        self.containers.processes = {HOST_PID: (HOST, 0), A_PID: (A, 0), B_PID: (B, 0)}
        for pidns, text in ((A, b"text of A\n"), (B, b"text of B\n")):
            texts = {row.path: text for row in VIEWS}
            limit = CpuLimit(frozenset({0}), None)
            self.containers.live[pidns, 0] = FakeKnown(
                texts=texts, epoch=pidns & 0xFF, cpu_limit_=limit
            )
        self.now = 1000 * S
        self.options = Options(sys_cpu=SysCpu.HIDE)
        self.own_memory = memory.make("own", "0:1", can_resend=True)
        self.caller_memory = memory.make("caller", "0:2", can_resend=True)
        self.sent: list[Request] = []
        self.woken: list[int] = []
        self.has_triggers = False
        self.next_server()

    def close(self) -> None:
        os.close(self.own_memory)
        os.close(self.caller_memory)

    def next_server(self, ttl: int = TTL) -> None:
        """Let a server begin that knows nothing but what outlives one."""
        self.guard = guard = Guard()
        sysfs = SysTree(str(self.root), devices=self._devices)
        self.contents = Contents(VIEWS, sysfs, self.host, self.options, guard, self.host32)
        served = [(self.root / row.host).exists() for row in VIEWS]
        self.names = Names(self.contents, served)
        secret = memory.read(self.own_memory).secret
        self.callers = Callers(self.containers, secret)
        self.triggers = Triggers(self.woken.append)
        self.own_mount = OwnMount(
            self.names, self.contents, self.callers, Store(self.own_memory), ttl,
            CALLER_MOUNT, self.has_triggers, lambda: self.now,
        )  # fmt: skip
        self.caller_mount = CallerMount(
            self.names, self.contents, self.callers, Store(self.caller_memory), ttl,
            self.triggers if self.has_triggers else None, self._send, lambda: self.now,
        )  # fmt: skip
        self.own = Asked(self.own_mount, guard)
        self.caller = Asked(self.caller_mount, guard)

    def _send(self, request: Request, key: Hashable) -> None:
        self.sent.append(request)

    def pass_time(self, ns: int) -> None:
        self.now += ns

    def say(self, text: bytes, pidns: int = A, path: str = "proc/meminfo") -> None:
        """Change what a file of a container says."""
        self.containers.live[pidns, 0].texts[path] = text

    def end(self, pidns: int) -> None:
        """Let a container end."""
        del self.containers.live[pidns, 0]
        for pid, owner in list(self.containers.processes.items()):
            if owner == (pidns, 0):
                del self.containers.processes[pid]

    def start(self, pidns: int, pid: int, text: bytes, epoch: int) -> FakeKnown:
        """Let a container begin, perhaps with the number of one that has ended."""
        self.containers.processes[pid] = (pidns, 0)
        texts = {row.path: text for row in VIEWS}
        new = self.containers.live[pidns, 0] = FakeKnown(texts=texts, epoch=epoch)
        return new

    def directory(self, pidns: int = A) -> str:
        """Return the path of a container's directory."""
        container = self.containers.live[pidns, 0]
        key = self.callers.key(nodes.pair((pidns, 0)), container.epoch)
        return f"own/{key.decode()}"

    def file(self, pidns: int = A, path: str = "proc/meminfo", pid: int = HOST_PID) -> int:
        """Resolve a container's file as the runtime does, before it binds it."""
        return self.own.walk(f"{self.directory(pidns)}/{path}", pid)
