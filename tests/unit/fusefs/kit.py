"""A filesystem of one file, x, in a world of three: the host and containers A and B."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pylxcfs.fusefs import nodes
from pylxcfs.fusefs.contents import Contents
from pylxcfs.fusefs.filesystem import Filesystem
from pylxcfs.fusefs.guard import Guard
from pylxcfs.fusefs.nodes import CACHED
from pylxcfs.fusefs.snapshots import Snapshots
from pylxcfs.fusefs.systree import SysTree
from pylxcfs.fusefs.threads import WholeReaders
from pylxcfs.fusefs.tree import Tree
from pylxcfs.views.model import Container, Host, Options
from pylxcfs.views.padding import Padding, blanks
from pylxcfs.views.table import View
from tests.unit.views.fakes import FakeContainer, FakeHost

HOST, A, B = 4026531836, 4026532180, 4026532190
ME = os.getpid()
PADDING = Padding(blanks)


@dataclass
class People:
    """pids to owners, owners to containers."""

    host_pidns: int = HOST
    tells_readings: bool = False
    #: What each thread asks for, as `reading` says it.
    readings: dict[int, tuple[int, int | None] | None] = field(default_factory=dict)
    expected: list[tuple[int, int]] = field(default_factory=list)
    programs: dict[int, bytes] = field(default_factory=dict)
    who: dict[int, tuple[int, int]] = field(default_factory=dict)
    containers: dict[tuple[int, int], FakeContainer] = field(default_factory=dict)
    never: select.epoll = field(default_factory=select.epoll)
    #: Those with a 32-bit personality.
    old: set[int] = field(default_factory=set)

    def identify(self, pid: int) -> tuple[int, int] | None:
        return self.who.get(pid)

    def namespace(self, pid: int) -> int:
        return self.who.get(pid, (0, 0))[0]

    def end(self, pidns: int) -> None:
        """Let a container end."""
        self.containers.pop((pidns, 0)).gone = True

    def get(self, owner: tuple[int, int], pid: int) -> FakeContainer | None:
        return self.containers.get(owner)

    def knows(self, owner: tuple[int, int]) -> bool:
        return owner in self.containers

    def expect(self, owner: tuple[int, int], pid: int) -> None:
        self.expected.append(owner)

    def host_caller(self, pid: int) -> Container | None:
        return None

    def is_32bit(self, pid: int) -> bool:
        return pid in self.old

    def reading(self, tid: int, with_offset: bool) -> tuple[int, int | None] | None:
        return self.readings.get(tid)

    def program(self, tid: int) -> bytes:
        return self.programs.get(tid, b"")

    def open_trigger(self, owner: tuple[int, int], pid: int, path: str) -> int:
        raise FileNotFoundError(path)

    def fileno(self) -> int:
        return self.never.fileno()

    def reap(self) -> None:
        pass

    def known(self) -> Iterable[tuple[int, int]]:
        return list(self.containers)


@dataclass
class World:
    people: People
    fs: Filesystem
    clock: list[int]
    texts: dict[int, bytes]
    host32: FakeHost

    def let_32_bits_differ(self) -> None:
        """Let the file depend on the reader's personality."""
        self.fs.contents._host32 = self.host32

    def node(self, pidns: int) -> int:
        return nodes.node(nodes.pair((pidns, 0)), nodes.FILES)

    def read_whole(self, node: int, pid: int) -> tuple[bytes, int]:
        handle, flags = self.fs.open(node, os.O_RDONLY, 0, pid)
        read = self.fs.fill if handle & CACHED else self.fs.read
        data = read(node, handle, 0, 65536, pid)
        if handle & CACHED:  # the kernel goes by the size
            data = data[: self.fs.attributes(node, 0, pid).size]
        self.fs.release(node, handle)
        return data, flags

    def make_known(self, node: int) -> None:
        """Let this process be known, as it takes the file whole."""
        for _ in range(2):
            self.read_whole(node, ME)

    def make_kept(self, node: int) -> int:
        """Let this process be known, and have pages of a node kept; return its last handle."""
        self.make_known(node)
        for _ in range(2):
            handle, _ = self.fs.open(node, os.O_RDONLY, 0, ME)
            self.fs.attributes(node, handle, ME)
        return handle


def make_world(tmp_path: Path) -> World:
    """Build it over a directory that stands for the root."""
    texts = {A: b"text of A\n", B: b"text of B\n"}

    def render(host: Host, container: Container, options: Options) -> bytes:
        text = texts[container.started_ns()]
        if text == b"fail":
            raise ZeroDivisionError
        return text + (b"32 bits\n" if host is host32 else b"")

    host32 = FakeHost({"proc/x": b"the host's, 32 bits\n"})
    view = View(
        path="proc/x",
        render=render,
        host="proc/x",
        padding=PADDING,
        summary="",
        by_personality=True,
    )
    people = People(who={1: (HOST, 0), ME: (A, 0), 20: (B, 0)})
    for number in (A, B):
        people.containers[number, 0] = FakeContainer(started_ns_=number)
    clock = [0]
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/x").touch(0o644)
    sysfs = SysTree(str(tmp_path))
    host = FakeHost({"proc/x": b"the host's\n"})
    contents = Contents([view], sysfs, host, Options(), Guard())
    fs = Filesystem(
        Tree([view], [True], sysfs),
        contents,
        people,
        Snapshots(100, lambda: clock[0]),
        WholeReaders(),
    )
    return World(people, fs, clock, texts, host32)
