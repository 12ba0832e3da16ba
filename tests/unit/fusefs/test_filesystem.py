"""Who gets what: owner, host and stranger on each node, cached or not, and what a handle keeps."""

from __future__ import annotations

import errno
import itertools
import os
import select
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pylxcfs.errors import SourceError
from pylxcfs.fusefs import nodes
from pylxcfs.fusefs.contents import Contents
from pylxcfs.fusefs.filesystem import Filesystem
from pylxcfs.fusefs.guard import Guard
from pylxcfs.fusefs.refusal import Refused
from pylxcfs.fusefs.snapshots import Snapshots
from pylxcfs.fusefs.systree import SysTree
from pylxcfs.fusefs.threads import WholeReaders
from pylxcfs.fusefs.tree import Tree
from pylxcfs.fusefs.wire import FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE
from pylxcfs.views.model import Container, Host, Options
from pylxcfs.views.padding import blanks
from pylxcfs.views.table import View
from tests.unit.views.fakes import FakeContainer, FakeHost

HOST, A, B = 4026531836, 4026532180, 4026532190
ME = os.getpid()


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
    containers: dict[tuple[int, int], Container] = field(default_factory=dict)
    never: select.epoll = field(default_factory=select.epoll)
    #: Those with a 32-bit personality.
    old: set[int] = field(default_factory=set)

    def identify(self, pid: int) -> tuple[int, int] | None:
        return self.who.get(pid)

    def get(self, owner: tuple[int, int], pid: int) -> Container | None:
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
        return self.readings.get(tid, (0, None))

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

    def node(self, pidns: int) -> int:
        return nodes.node(nodes.pair((pidns, 0)), nodes.FILES)

    def read_whole(self, node: int, pid: int) -> tuple[bytes, int]:
        handle, flags = self.fs.open(node, os.O_RDONLY, 0, pid)
        data = self.fs.read(node, handle, 0, 65536, pid)
        self.fs.release(node, handle)
        return data, flags


@pytest.fixture
def world(tmp_path: Path) -> World:
    texts = {A: b"text of A\n", B: b"text of B\n"}

    def render(host: Host, container: Container, options: Options) -> bytes:
        text = texts[container.started_ns()]
        if text == b"fail":
            raise ZeroDivisionError
        return text + (b"32 bits\n" if host is host32 else b"")

    host32 = FakeHost({"proc/x": b"the host's, 32 bits\n"})
    view = View(
        path="proc/x", render=render, host="proc/x", pad=blanks, summary="", by_personality=True
    )
    people = People(who={1: (HOST, 0), ME: (A, 0), 20: (B, 0)})
    for number in (A, B):
        people.containers[number, 0] = FakeContainer(started_ns_=number)
    clock = [0]
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/x").touch(0o644)
    sysfs = SysTree(str(tmp_path))
    host = FakeHost({"proc/x": b"the host's\n"})
    contents = Contents([view], sysfs, host, Options(), Guard(), host32)
    fs = Filesystem(
        Tree([view], [True], sysfs),
        contents,
        people,
        Snapshots(100, lambda: clock[0]),
        WholeReaders(),
    )
    return World(people, fs, clock, texts)


def test_the_owner_reads_its_own(world: World) -> None:
    assert world.read_whole(world.node(A), ME) == (b"text of A\n", FOPEN_DIRECT_IO)


def test_the_host_reads_the_owners_past_the_cache(world: World) -> None:
    assert world.read_whole(world.node(A), 1) == (b"text of A\n", FOPEN_DIRECT_IO)


def test_a_stranger_reads_its_own_on_anothers_node(world: World) -> None:
    assert world.read_whole(world.node(A), 20) == (b"text of B\n", FOPEN_DIRECT_IO)


def test_a_container_on_the_hosts_node_reads_its_own(world: World) -> None:
    assert world.read_whole(world.node(HOST), 20) == (b"text of B\n", FOPEN_DIRECT_IO)


@pytest.mark.parametrize("pid", [0, 999])
def test_who_cannot_be_known_reads_the_hosts(world: World, pid: int) -> None:
    assert world.read_whole(world.node(A), pid)[0] == b"the host's\n"


def test_a_thread_that_reads_whole_files_gets_the_cache(world: World) -> None:
    node = world.node(A)
    world.read_whole(node, ME)
    world.read_whole(node, ME)
    handle, flags = world.fs.open(node, os.O_RDONLY, 0, ME)
    assert flags == 0  # no pages of the kernel's are trusted yet
    attributes = world.fs.attributes(node, handle, ME)
    assert (attributes.size, attributes.valid_ns) == (len(b"text of A\n"), 100)
    assert world.fs.reopen(node, ME, os.O_RDONLY) == 0  # has to be looked at once more
    assert world.fs.open(node, os.O_RDONLY, 0, ME)[1] == FOPEN_KEEP_CACHE
    assert world.fs.reopen(node, ME, os.O_RDONLY)
    assert world.fs.reopen(node, ME, os.O_RDWR) == 0
    assert world.fs.reopen(world.node(B), ME, os.O_RDONLY) == 0
    assert world.fs.reopen(node, 20, os.O_RDONLY) == 0


def test_what_ends_or_changes_takes_the_short_way_from_a_known_thread(world: World) -> None:
    node = world.node(A)
    changes: list[Callable[[], object]] = [
        world.fs.changed,
        world.fs.sweep,
        world.fs.callers.on_end,
        lambda: world.fs.readers.saw_piece(ME, nodes.FILES),
        lambda: world.fs.open(node, os.O_RDONLY, 0, 20),
    ]
    for change in changes:
        for _ in range(2):
            world.read_whole(node, ME)
        for _ in range(2):
            handle, _ = world.fs.open(node, os.O_RDONLY, 0, ME)
            world.fs.attributes(node, handle, ME)
        assert world.fs.reopen(node, ME, os.O_RDONLY)
        change()
        assert world.fs.reopen(node, ME, os.O_RDONLY) == 0


def test_a_text_may_be_made_anew_in_the_last_part_of_its_life(world: World) -> None:
    node, renderings = world.node(A), world.fs.renderings
    assert not renderings.ends_soon(node)  # there is none
    world.read_whole(node, ME)
    for age, soon in [(0, False), (80, False), (90, True), (100, False)]:
        world.clock[0] = age
        assert renderings.ends_soon(node) == soon
    world.clock[0] = 90
    world.texts[A] = b"more of A\n"
    renderings.renew(node)
    assert not renderings.ends_soon(node)
    assert world.read_whole(node, ME)[0] == b"more of A\n"
    del world.people.containers[A, 0]
    world.clock[0] = 185
    renderings.renew(node)  # of one that has ended: nobody is looked for
    assert renderings.ends_soon(node)


def test_pages_and_their_size_come_from_one_snapshot(world: World) -> None:
    node = world.node(A)
    for _ in range(2):
        world.read_whole(node, ME)
    handle, _ = world.fs.open(node, os.O_RDONLY, 0, ME)
    first = world.fs.attributes(node, handle, ME)
    world.texts[A] = b"newer\n"
    world.clock[0] = 150
    assert world.fs.read(node, handle, 0, 4096, ME) == b"text of A\n"  # as it was told
    second = world.fs.attributes(node, handle, ME)
    assert second.mtime_ns != first.mtime_ns
    assert second.size == first.size
    assert world.fs.read(node, handle, 0, 4096, ME) == b"newer    \n"


def test_a_stranger_on_a_node_keeps_its_owner_from_the_cache(world: World) -> None:
    node = world.node(A)
    for _ in range(2):
        world.read_whole(node, ME)
    cached, _ = world.fs.open(node, os.O_RDONLY, 0, ME)
    world.fs.attributes(node, cached, ME)
    told: list[int] = []
    world.fs.forget_attributes = told.append
    stranger, _ = world.fs.open(node, os.O_RDONLY, 0, 20)
    assert world.fs.open(node, os.O_RDONLY, 0, ME)[1] == FOPEN_DIRECT_IO
    assert world.fs.attributes(node, cached, ME).valid_ns == 0
    assert told == [node]
    world.fs.release(node, stranger)
    world.read_whole(node, ME)
    assert world.fs.open(node, os.O_RDONLY, 0, ME)[1] == FOPEN_DIRECT_IO
    assert world.fs.attributes(node, cached, ME).valid_ns == 0
    assert world.fs.attributes(node, 0, ME).valid_ns == 0


def test_a_namespace_number_that_comes_back_does_not_keep_the_old_pages(world: World) -> None:
    node = world.node(A)
    for _ in range(2):
        world.read_whole(node, ME)
    handle, _ = world.fs.open(node, os.O_RDONLY, 0, ME)
    world.fs.attributes(node, handle, ME)
    world.people.containers[A, 0] = FakeContainer(started_ns_=B)
    assert world.read_whole(node, ME)[0] == b"text of B\n"


def test_a_handle_keeps_its_snapshot_until_it_comes_back_to_the_start(world: World) -> None:
    node = world.node(A)
    handle, _ = world.fs.open(node, os.O_RDONLY, 0, ME)
    assert world.fs.read(node, handle, 0, 4, ME) == b"text"
    world.texts[A] = b"newer\n"
    world.clock[0] = 150
    assert world.fs.read(node, handle, 4, 100, ME) == b" of A\n"
    assert world.fs.read(node, handle, 0, 100, ME) == b"newer\n"
    assert world.fs.read(node, handle, 6, 100, ME) == b""


def test_who_comes_back_for_the_difference_gets_a_new_text(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Contents, "differences", lambda self, index: True)
    node = world.node(A)
    first, _ = world.fs.open(node, os.O_RDONLY, 0, ME)
    second, _ = world.fs.open(node, os.O_RDONLY, 0, ME)
    assert world.fs.read(node, first, 0, 100, ME) == b"text of A\n"
    world.texts[A] = b"newer\n"
    assert world.fs.read(node, second, 0, 100, ME) == b"text of A\n"  # shared, within its life
    assert world.fs.read(node, first, 0, 100, ME) == b"newer\n"


def test_a_handle_of_a_dead_server_reads_on(world: World) -> None:
    node = world.node(A)
    old = nodes.handle(nodes.pair((A, 0)), 0, 5)
    assert world.fs.read(node, old, 5, 100, ME) == b"of A\n"


def test_who_reads_in_pieces_gets_all_of_them_from_one_text_though_servers_change(
    world: World,
) -> None:
    memfd = os.memfd_create("test")
    world.fs.survivors.use(memfd)
    node = world.node(A)
    handle, _ = world.fs.open(node, os.O_RDONLY, 0, ME)
    assert world.fs.read(node, handle, 0, 4, ME) == b"text"
    world.fs.release(node, handle)  # as if this were a server that has never seen it
    world.texts[A] = b"TEXT OF A\n"
    world.fs.changed()
    assert world.fs.read(node, handle, 4, 100, ME) == b" of A\n"
    assert world.fs.read(node, handle, 0, 100, ME) == b"TEXT OF A\n"
    os.close(memfd)


def test_a_bug_in_a_view_gives_the_hosts_file(world: World) -> None:
    world.texts[A] = b"fail"
    assert world.read_whole(world.node(A), ME)[0] == b"the host's\n"


def test_an_empty_view_gives_the_hosts_file(world: World) -> None:
    world.texts[A] = b""
    assert world.read_whole(world.node(A), ME)[0] == b"the host's\n"


def test_a_host_file_that_cannot_be_read_is_eio(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: FakeHost, path: str) -> bytes:
        raise SourceError(path)

    monkeypatch.setattr(FakeHost, "read", broken)
    world.texts[A] = b"fail"
    with pytest.raises(Refused) as caught:
        world.read_whole(world.node(A), ME)
    assert caught.value.errno == errno.EIO


def test_a_file_that_only_root_may_read_on_the_host_stays_so(world: World, tmp_path: Path) -> None:
    (tmp_path / "proc/x").chmod(0o400)
    world.fs.open(world.node(A), os.O_RDONLY, 0, ME)
    with pytest.raises(Refused) as caught:
        world.fs.open(world.node(A), os.O_RDONLY, 1000, ME)
    assert caught.value.errno == errno.EACCES


def test_a_32_bit_reader_gets_its_own_text_and_nobody_else_does(world: World) -> None:
    node = world.node(A)
    for _ in range(2):
        world.read_whole(node, ME)
    world.people.old.add(ME)
    assert world.read_whole(node, ME) == (b"text of A\n32 bits\n", FOPEN_DIRECT_IO)
    world.people.old.clear()
    assert world.read_whole(node, ME) == (b"text of A\n", FOPEN_DIRECT_IO)
    assert world.fs.attributes(node, 0, ME).valid_ns == 0
    assert world.read_whole(node, 1)[0] == b"text of A\n"


def test_writing_is_refused(world: World) -> None:
    with pytest.raises(Refused) as caught:
        world.fs.open(world.node(A), os.O_WRONLY, 0, ME)
    assert caught.value.errno == errno.EACCES


def test_links_lead_each_caller_to_its_own(world: World) -> None:
    link = world.fs.names.lookup(world.fs.names.lookup(nodes.ROOT, b"proc", ME), b"x", ME)
    assert world.fs.names.readlink(link, ME) == b"../by-pidns/4026532180/proc/x"
    assert world.fs.names.readlink(link, 20) == b"../by-pidns/4026532190/proc/x"
    assert world.fs.names.readlink(link, 0) == b"../by-pidns/4026531836/proc/x"
    # Who follows a link binds a file, and reads it soon.
    assert world.people.expected == [(A, 0), (B, 0), (HOST, 0)]


def test_a_directory_lists_what_lookup_finds(world: World) -> None:
    names = world.fs.names
    seen = []
    todo = [nodes.ROOT]
    while todo:
        directory = todo.pop()
        for entry in names.entries(directory, ME):
            assert names.lookup(directory, entry.name, ME) == entry.number
            seen.append(entry.name)
            if entry.mode & 0o040000:
                todo.append(entry.number)
    assert {b"proc", b"x", b"self", b"4026532180", b"4026531836"} <= set(seen)


def test_a_container_that_never_was_has_no_directory(world: World) -> None:
    with pytest.raises(Refused) as caught:
        world.fs.names.lookup(nodes.BY_PIDNS, b"4026539999", 1)
    assert caught.value.errno == errno.ENOENT


def test_a_namespace_whose_number_does_not_fit_is_nobodys_and_stops_nothing(world: World) -> None:
    far = (HOST + (1 << 21), 0)
    world.people.who[30] = far
    world.people.containers[far] = FakeContainer()
    world.texts[A] = b"kept\n"
    assert world.read_whole(world.node(A), 30)[0] == b"the host's\n"
    world.read_whole(world.node(A), ME)
    world.fs.sweep()
    assert len(world.fs.snapshots) == 1
    listed = [entry.name for entry in world.fs.names.entries(nodes.BY_PIDNS, ME)]
    assert listed == [b"self", b"4026531836", b"4026532180", b"4026532190"]


def test_a_file_that_stays_open_keeps_its_text_when_serials_come_round(world: World) -> None:
    world.fs._serial = itertools.count(7)
    first, _ = world.fs.open(world.node(A), os.O_RDONLY, 0, ME)
    assert world.fs.read(world.node(A), first, 0, 5, ME) == b"text "
    world.fs._serial = itertools.count(7)
    world.texts[A], world.clock[0] = b"another text\n", 1000
    second, _ = world.fs.open(world.node(A), os.O_RDONLY, 0, ME)
    assert world.fs.read(world.node(A), second, 0, 65536, ME) == b"another text\n"
    world.fs.release(world.node(A), second)
    assert world.fs.read(world.node(A), first, 5, 65536, ME) == b"of A\n"


def test_who_has_more_files_open_than_there_are_serials_still_opens(world: World) -> None:
    for _ in range(3):
        world.fs._serial = itertools.repeat(7)  # type: ignore[assignment]
        assert world.fs.open(world.node(A), os.O_RDONLY, 0, ME)
