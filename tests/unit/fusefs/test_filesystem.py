"""Who gets what: owner, host and stranger on each node, and what a handle keeps."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path

import pytest

from pylxcfs.errors import SourceError
from pylxcfs.fusefs import nodes, snapshots
from pylxcfs.fusefs.contents import Contents
from pylxcfs.fusefs.nodes import SERIAL_MASK
from pylxcfs.fusefs.refusal import Refused
from pylxcfs.fusefs.wire import FOPEN_DIRECT_IO
from pylxcfs.units import NS_PER_S
from tests.unit.fusefs.kit import HOST, ME, A, B, World
from tests.unit.views.fakes import FakeContainer, FakeHost


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
    world: World, memfd: int
) -> None:
    world.fs.survivors.use(memfd)
    node = world.node(A)
    handle, _ = world.fs.open(node, os.O_RDONLY, 0, ME)
    assert world.fs.read(node, handle, 0, 4, ME) == b"text"
    world.fs.release(node, handle)  # as if this were a server that has never seen it
    world.texts[A] = b"TEXT OF A\n"
    world.fs.changed()
    assert world.fs.read(node, handle, 4, 100, ME) == b" of A\n"
    assert world.fs.read(node, handle, 0, 100, ME) == b"TEXT OF A\n"


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
    world.make_known(node)
    world.let_32_bits_differ()
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


def test_a_size_of_a_container_before_is_not_what_a_new_ones_files_are_rendered_for(
    world: World,
) -> None:
    """Its runtime looks the file up before the container is known: that would be the host's."""
    node = nodes.node(nodes.pair((A + 1, 0)), nodes.FILES)
    world.fs.snapshots.sizes.told(node, 10, A)
    assert world.fs.attributes(node, 0, 1).size == 4096
    assert world.fs.snapshots.shown(node) is None


def test_a_page_beside_anothers_question_for_the_size_has_no_zeros_up_to_the_bound(
    world: World,
) -> None:
    """He was told a bound while the page was on its way: the kernel heeds no short answer then."""
    node = world.node(HOST)
    handle, _ = world.fs.open(node, os.O_RDONLY, 0, ME)
    text = b"text of A\n"
    world.fs.attributes(node, 0, ME)  # asks first, reads then
    assert world.fs.fill(node, handle, 0, 4096, ME) == text
    world.fs.attributes(node, 0, 1)
    assert world.fs.fill(node, handle, 0, 4096, ME) == text + b"\n" * (4096 - len(text))
    assert world.fs.fill(node, handle, 4096, 4096, ME) == b""
    assert world.fs.read(node, handle, 0, 4096, ME) == text  # past the cache no size matters
    world.clock[0] += snapshots._ON_ITS_WAY_NS
    assert world.fs.fill(node, handle, 0, 4096, ME) == text


def test_nothing_is_rendered_for_a_new_container_that_has_not_opened_anything(
    world: World,
) -> None:
    """Its runtime looks the file up before it has its limits, and the number was another's."""
    node = world.node(A)
    world.make_kept(node)
    world.people.end(A)
    world.people.containers[A, 0] = FakeContainer(started_ns_=A + NS_PER_S)
    world.texts[A + NS_PER_S] = b"the host's, as it has no limits yet\n"
    assert world.fs.attributes(node, 0, ME).size == 4096
    world.texts[A + NS_PER_S] = b"its own\n"
    assert world.read_whole(node, ME)[0] == b"its own\n"


@pytest.mark.parametrize("whose", ["the host's node", "its own, with no time to live"])
def test_what_was_opened_past_the_cache_is_opened_so_again(world: World, whose: str) -> None:
    node = world.node(HOST)
    if whose != "the host's node":
        node = world.node(A)
        world.fs.snapshots.ttl_ns = 0
    reopens = world.fs.reopens
    for _ in range(2):
        world.fs.open(node, os.O_RDONLY, 0, ME)
        assert not reopens.open(node, ME, os.O_RDONLY)  # nobody would say when this thread ends
        world.read_whole(node, ME)
    first, flags = world.fs.open(node, os.O_RDONLY, 0, ME)
    assert flags == FOPEN_DIRECT_IO
    again = reopens.open(node, ME, os.O_RDONLY)
    assert (again ^ first) & ~SERIAL_MASK == 0
    assert again != first
    assert world.fs.read(node, again, 0, 4096, ME) == b"text of A\n"
    for change in (lambda: None, world.fs.callers.on_end):
        change()
        for pid, how in ((20, os.O_RDONLY), (ME, os.O_RDWR), (ME, os.O_RDONLY | os.O_DIRECT)):
            assert not reopens.open(node, pid, how)
    assert not reopens.open(node, ME, os.O_RDONLY)
    before = len(world.fs._handles)
    assert not reopens.close(node, again)
    assert len(world.fs._handles) == before - 1


def test_a_serial_that_is_still_open_is_not_given_away_again(world: World) -> None:
    node, reopens = world.node(HOST), world.fs.reopens
    world.make_known(node)
    first, _ = world.fs.open(node, os.O_RDONLY, 0, ME)
    reopens._serials = itertools.chain([first & SERIAL_MASK], reopens._serials)
    assert not reopens.open(node, ME, os.O_RDONLY)
    assert reopens.open(node, ME, os.O_RDONLY)


def test_a_file_that_not_everybody_may_read_is_looked_at_each_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may is decided by the user, which a thread may change."""
    node = world.node(HOST)
    world.make_known(node)
    world.fs.reopens.clear()
    monkeypatch.setattr(world.fs.contents, "mode", lambda index: 0o100400)
    world.fs.open(node, os.O_RDONLY, 0, ME)
    assert not world.fs.reopens.open(node, ME, os.O_RDONLY)


def test_who_has_ended_is_asked_before_a_file_past_the_cache_is_opened_in_short(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host's node is everybody's, and the thread's number may be another's by now."""
    node, reopens = world.node(HOST), world.fs.reopens
    world.make_known(node)
    world.fs.open(node, os.O_RDONLY, 0, ME)
    assert reopens.open(node, ME, os.O_RDONLY)
    monkeypatch.setattr(world.fs.callers, "refresh", reopens.clear)
    assert not reopens.open(node, ME, os.O_RDONLY)


@pytest.mark.parametrize("whose", [A, HOST])
def test_a_file_that_depends_on_the_personality_is_looked_at_each_time(
    world: World, whose: int
) -> None:
    world.let_32_bits_differ()
    node = world.node(whose)
    world.make_kept(node)
    assert not world.fs.reopens.open(node, ME, os.O_RDONLY)


def test_the_rest_of_a_file_is_that_of_the_text_it_began_with_though_that_was_the_hosts(
    world: World,
) -> None:
    """As when the watchdog has answered the first read of it."""
    world.texts[A] = b"a text of A that is longer than the host's\n"
    node = world.node(A)
    handle, _ = world.fs.open(node, os.O_RDONLY | os.O_DIRECT, 0, ME)
    text = world.fs.instead(node, handle)
    assert text == b"the host's\n"
    assert world.fs.read(node, handle, 4, 100, ME) == b"host's\n"
    assert world.fs.read(node, handle, len(text), 100, ME) == b""
    assert world.fs.read(node, handle, 0, 100, ME) == world.texts[A]
    assert world.fs.instead(node, handle) == world.texts[A]


def test_who_took_a_whole_text_from_the_server_before_gets_no_end_of_another(
    world: World, memfd: int
) -> None:
    world.fs.survivors.use(memfd)
    node = world.node(A)
    old = nodes.handle(nodes.pair((A, 0)), 0, 5)
    length = len(world.texts[A])
    world.texts[A] = b"a text of A that is longer\n"
    assert world.fs.read(node, old, length, 100, ME) == b""
    assert world.fs.read(node, old, 0, 100, ME) == world.texts[A]
    assert world.fs.read(node, old, 2, 100, ME) == world.texts[A][2:]
