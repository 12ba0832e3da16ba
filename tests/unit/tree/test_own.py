"""The own mount: what the kernel is told of a container's files, and when."""

from __future__ import annotations

import errno
import re
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylxcfs.fuse import wire
from pylxcfs.tree import nodes
from pylxcfs.tree.own import STEP_NS, padded
from tests.unit.tree.kit import (
    A_PID,
    B_PID,
    CALLER_MOUNT,
    HOST,
    HOST_PID,
    HOST_TEXT,
    MEMINFO,
    MS,
    PRIVATE,
    TTL,
    A,
    Attr,
    B,
    S,
    World,
    attributes,
    read_in,
)

TEXT = b"text of A\n"
LONGER = b"a longer text of A\n"
SHORT = b"A\n"


def content(world: World, node: int) -> bytes:
    """Return the text that the kernel shows once it has asked and has filled the page."""
    size = world.own.getattr(node).size
    return world.own.read(node)[:size]


def in_use(world: World, node: int) -> Attr:
    """Let readers come; return what the kernel is told after the first read."""
    content(world, node)
    return world.own.getattr(node)


# -- requests that are not for texts -----------------------------------------------------------


@pytest.mark.parametrize("opcode", [wire.OPEN, wire.FLUSH, wire.POLL, wire.ACCESS, 22, 23, 46, 52])
def test_open_and_its_like_are_not_implemented(world: World, opcode: int) -> None:
    """ENOSYS for OPEN is what lets the kernel open and read from the page cache alone."""
    assert world.own.error(opcode, world.file(), A_PID, bytes(40)) == errno.ENOSYS


def test_opendir_is_implemented(world: World) -> None:
    """The kernel would cache one caller's listing for all."""
    data = world.own.succeed(wire.OPENDIR, nodes.ROOT, A_PID, bytes(8))
    assert data == bytes(16)  # no handle, and no flag that lets a listing be cached
    world.own.succeed(wire.RELEASEDIR, nodes.ROOT, 0, bytes(24))


def test_statfs_is_that_of_procfs(world: World) -> None:
    assert len(world.own.succeed(wire.STATFS, nodes.ROOT, A_PID)) == 80


def test_lookup_renders_nothing(world: World) -> None:
    """It comes from the runtime, before the container has its limits."""
    world.host.reads.clear()
    world.say(b"bug")
    entry = world.own.lookup(world.own.walk(f"{world.directory()}/proc"), b"meminfo")
    assert not world.guard.failures
    assert world.host.reads == []
    assert entry.attr.valid == 0  # so GETATTR comes before every read
    assert entry.attr.size > 0
    assert entry.entry_valid > 0
    world.say(TEXT)
    assert content(world, entry.node) == TEXT


def test_lookup_and_getattr_say_the_same_of_a_text(world: World) -> None:
    node = world.file()
    attr = world.own.getattr(node)
    parent = world.own.walk(f"{world.directory()}/proc")
    assert world.own.lookup(parent, b"meminfo").attr == attr._replace(valid=0)


def test_a_file_that_only_root_may_read_on_the_host_stays_so(world: World) -> None:
    modes = {
        path: stat.S_IMODE(world.own.getattr(world.file(path=path)).mode)
        for path in ("proc/meminfo", "proc/secret")
    }
    assert modes == {"proc/meminfo": 0o444, "proc/secret": 0o400}


@pytest.mark.parametrize("name", [b"nothing", b"missing", b"..", b""])
def test_a_name_that_is_not_there_is_enoent(world: World, name: bytes) -> None:
    for path in ("proc", "own", f"{world.directory()}/proc"):
        parent = world.own.walk(path)
        assert world.own.error(wire.LOOKUP, parent, A_PID, name + b"\0") == errno.ENOENT


# -- a text and its life -----------------------------------------------------------------------


def test_a_text_is_shown_for_its_life(world: World) -> None:
    node = world.file()
    first = in_use(world, node)
    assert (first.size, first.valid) == (len(TEXT), TTL)
    world.say(b"TEXT OF A\n")
    world.pass_time(TTL - 1)
    assert world.own.getattr(node) == first._replace(valid=1)
    assert content(world, node) == TEXT
    world.pass_time(1)
    second = world.own.getattr(node)
    assert second.mtime > first.mtime
    assert second.valid == TTL
    assert content(world, node) == b"TEXT OF A\n"


def test_a_file_that_changes_seldom_lives_longer(world: World) -> None:
    assert in_use(world, world.file(path="proc/loadavg")).valid == 10 * TTL


def test_an_unchanged_text_keeps_its_mtime_and_so_its_pages(world: World) -> None:
    node = world.file()
    first = in_use(world, node)
    for pause in (TTL, TTL, TTL + 1, S, TTL + S + 1):
        world.pass_time(pause)
        assert world.own.getattr(node) == first


def test_a_text_has_no_life_before_its_first_read(world: World) -> None:
    """GETATTR may come from the runtime, before the container has its limits."""
    node = world.file()
    assert world.own.getattr(node, HOST_PID, reads=False).valid == 0
    world.say(b"with its limits\n")
    assert world.own.getattr(node, reads=False).size == len(b"with its limits\n")
    assert content(world, node) == b"with its limits\n"
    assert world.own.getattr(node).valid == TTL


def test_readers_that_begin_together_are_told_one_size(world: World) -> None:
    """The first one reads with the size that it was told, while the kernel learns the other's."""
    node = world.file()
    world.containers.opening |= {A_PID, A_PID + 1}
    first = world.own.getattr(node, reads=False)
    world.say(LONGER)
    second = world.own.getattr(node, A_PID + 1, reads=False)
    assert second.size >= len(LONGER)
    assert world.own.read(node)[: first.size] == TEXT[:-1] + b" "


def test_containers_have_their_own_texts_whichever_process_asks(world: World) -> None:
    for pid in (HOST_PID, A_PID, B_PID, 0):
        for pidns, text in ((A, TEXT), (B, b"text of B\n")):
            node = world.file(pidns)
            assert world.own.getattr(node, pid).size == len(text)
            assert world.own.read(node, pid=pid)[: len(text)] == text
            world.pass_time(TTL)


def test_a_page_is_filled_to_its_end_with_newlines(world: World) -> None:
    node = world.file()
    world.own.getattr(node)
    assert world.own.read(node, 0, 8192) == TEXT + b"\n" * (8192 - len(TEXT))
    assert world.own.read(node, 4096, 4096) == b"\n" * 4096
    assert world.own.read(node, 5, 100) == TEXT[5:] + b"\n" * (100 - len(TEXT) + 5)


def test_a_read_that_fills_no_page_is_not_filled(world: World) -> None:
    node = world.file()
    world.own.getattr(node)
    assert world.own.read(node, 0, 8192, flags=PRIVATE) == TEXT
    assert world.own.read(node, 5, 3, flags=PRIVATE) == TEXT[5:8]
    assert world.own.read(node, 4096, 4096, flags=PRIVATE) == b""


def test_a_page_can_be_asked_for_before_attributes(world: World) -> None:
    """Of a file that was open while a server was replaced."""
    node = nodes.node(nodes.pair((A, 0)), MEMINFO)
    world.file()
    world.next_server()
    assert world.own.read(node).rstrip() == TEXT.rstrip()


def test_a_rendering_that_was_not_read_is_that_of_the_open_before(world: World) -> None:
    """open(2) asks for attributes, and then read(2): one rendering is enough."""
    world.next_server(ttl=0)
    node = world.file()
    opened = world.own.getattr(node)
    assert opened.valid == 0
    world.say(b"TEXT OF A\n")
    world.pass_time(MS)
    assert world.own.getattr(node) == opened
    assert world.own.read(node)[: len(TEXT)] == TEXT
    assert world.own.getattr(node).mtime > opened.mtime
    assert world.own.read(node)[: len(TEXT)] == b"TEXT OF A\n"


def test_an_old_rendering_that_was_not_read_is_made_again(world: World) -> None:
    world.next_server(ttl=0)
    node = world.file()
    world.own.getattr(node)
    world.say(b"TEXT OF A\n")
    world.pass_time(11 * MS)
    assert content(world, node) == b"TEXT OF A\n"


def test_a_changed_policy_is_shown_at_the_next_question(world: World) -> None:
    node = world.file()
    assert content(world, node) == TEXT
    world.say(b"TEXT OF A\n")
    world.own_mount.changed()
    assert content(world, node) == b"TEXT OF A\n"


# -- sizes -------------------------------------------------------------------------------------


def test_a_longer_text_is_told_in_two_steps(world: World) -> None:
    node = world.file()
    first = in_use(world, node)
    world.say(LONGER)
    world.pass_time(TTL)
    step = world.own.getattr(node)
    assert step.size >= len(LONGER)
    assert step.valid == STEP_NS
    assert step.mtime > first.mtime
    assert content(world, node) == padded(TEXT, step.size)
    world.pass_time(STEP_NS)
    second = world.own.getattr(node)
    assert (second.size, second.valid) == (step.size, TTL)
    assert second.mtime > step.mtime
    assert content(world, node) == padded(LONGER, step.size)


def test_a_size_that_grew_leaves_room_for_a_text_that_grows_a_little(world: World) -> None:
    node = world.file()
    in_use(world, node)
    world.say(LONGER)
    world.pass_time(TTL)
    size = world.own.getattr(node).size
    assert size > len(LONGER)
    world.pass_time(STEP_NS)
    world.own.getattr(node)
    for more in range(1, size - len(LONGER) + 1):
        text = LONGER[:-1] + b"x" * more + b"\n"
        world.say(text)
        world.pass_time(TTL)
        assert content(world, node) == padded(text, size)


def test_a_text_that_follows_its_size_is_not_older_than_its_life(world: World) -> None:
    """mpstat reads once a second: it must not be shown what was rendered for the read before."""
    node = world.file()
    in_use(world, node)
    world.say(LONGER)
    world.pass_time(S - MS)
    size = world.own.getattr(node).size  # the size alone
    newest = LONGER[:-2] + b"9\n"
    world.say(newest)
    world.pass_time(S - MS)
    assert world.own.getattr(node).size == size
    assert content(world, node) == padded(newest, size)


def test_a_shorter_text_is_filled_up_to_the_size_that_was_told(world: World) -> None:
    node = world.file()
    first = in_use(world, node)
    world.say(SHORT)
    world.pass_time(TTL)
    second = world.own.getattr(node)
    assert (second.size, second.valid) == (first.size, TTL)
    assert second.mtime > first.mtime
    assert content(world, node) == padded(SHORT, len(TEXT))


@pytest.mark.parametrize("text", [SHORT, LONGER])
def test_after_a_pause_size_and_text_change_together(world: World, text: bytes) -> None:
    node = world.file()
    in_use(world, node)
    world.say(text)
    world.pass_time(TTL + S + 1)
    assert world.own.getattr(node).size == len(text)
    assert content(world, node) == text


@pytest.mark.parametrize("path", ["proc/meminfo", "proc/loadavg"])
@pytest.mark.parametrize("ttl", [TTL, S, 10 * S])
def test_readers_whose_texts_live_long_are_no_pause(world: World, path: str, ttl: int) -> None:
    """The kernel asks only after the life of a text: until then it has nothing to ask."""
    world.next_server(ttl)
    node = world.file(path=path)
    first = in_use(world, node)
    world.say(LONGER, path=path)
    world.pass_time(first.valid + MS)
    size = world.own.getattr(node).size
    assert content(world, node) == padded(TEXT, size)
    world.pass_time(STEP_NS)
    assert content(world, node) == padded(LONGER, size)
    world.say(SHORT, path=path)
    world.pass_time(world.own.getattr(node).valid + MS)
    assert content(world, node) == padded(SHORT, size)


def test_a_text_in_waiting_is_not_shown_after_a_pause(world: World) -> None:
    node = world.file()
    in_use(world, node)
    world.say(LONGER)
    world.pass_time(TTL)
    world.own.getattr(node)
    world.say(SHORT)
    world.pass_time(STEP_NS + S + 1)
    assert content(world, node) == SHORT


@settings(max_examples=30)
@given(data=st.data())
def test_while_readers_come_a_size_only_grows_and_never_with_the_text(data: st.DataObject) -> None:
    """As the kernel sees it: at each GETATTR the size changes, or the text, or neither."""
    with tempfile.TemporaryDirectory() as root:
        world = World(Path(root))
        node = world.file()
        attr = in_use(world, node)
        shown = world.own.read(node)
        for _ in range(20):
            world.say(b"x" * data.draw(st.integers(0, 100)) + b"\n")
            world.containers.offsets[A_PID] = data.draw(st.sampled_from([0, 5, 4096]))
            pauses = st.sampled_from([0, MS, STEP_NS, TTL, TTL + STEP_NS, S])
            world.pass_time(data.draw(pauses))
            if data.draw(st.integers(0, 9)) == 0:
                world.next_server()
            after = world.own.getattr(node)
            page = world.own.read(node)
            assert after.size >= attr.size
            if page != shown or after.size != attr.size:
                assert after.mtime > attr.mtime  # so the kernel drops its pages
            if after.size != attr.size:
                assert page[: after.size] == padded(shown[: attr.size], after.size)
            assert page[: after.size].endswith(b"\n")
            attr, shown = after, page
        world.close()


@given(st.binary(max_size=100), st.integers(0, 100))
def test_blanks_lengthen_the_last_line(text: bytes, more: int) -> None:
    long = padded(text, len(text) + more)
    assert len(long) == len(text) + more
    assert long.count(b"\n") == text.count(b"\n")
    end = len(text.rstrip(b"\n"))
    assert long[:end] == text[:end]
    assert long.endswith(text[end:])
    assert long.replace(b" ", b"") == text.replace(b" ", b"")


# -- a reader in the middle --------------------------------------------------------------------


def test_a_reader_in_the_middle_gets_the_rest_of_its_text_but_not_for_ever(world: World) -> None:
    node = world.file()
    first = in_use(world, node)
    world.say(b"TEXT OF A\n")
    world.containers.offsets[A_PID] = 5
    world.pass_time(TTL)
    for _ in range(100):
        assert world.own.getattr(node) == first._replace(valid=10 * MS)
        assert content(world, node) == TEXT
        world.pass_time(10 * MS)
    assert content(world, node) == b"TEXT OF A\n"


def test_a_reader_in_the_middle_gets_the_rest_from_a_server_that_was_stopped(
    world: World,
) -> None:
    """By SIGSTOP, or because the machine was suspended."""
    node = world.file()
    in_use(world, node)
    world.say(b"TEXT OF A\n")
    world.containers.offsets[A_PID] = 5
    world.pass_time(100 * S)
    assert content(world, node) == TEXT


def test_a_reader_at_the_start_gets_a_new_text(world: World) -> None:
    node = world.file()
    in_use(world, node)
    world.say(b"TEXT OF A\n")
    world.containers.offsets[A_PID] = 0
    world.pass_time(TTL)
    assert content(world, node) == b"TEXT OF A\n"


def test_a_reader_at_the_end_of_a_text_gets_no_more_of_another(world: World) -> None:
    node = world.file()
    first = in_use(world, node)
    world.say(LONGER)
    world.containers.offsets[A_PID] = len(TEXT)
    world.pass_time(TTL)
    assert world.own.getattr(node) == first._replace(valid=0)
    world.containers.offsets[A_PID] = 0
    assert world.own.getattr(node).size > first.size


def test_a_text_in_waiting_waits_for_a_reader_in_the_middle(world: World) -> None:
    node = world.file()
    in_use(world, node)
    world.say(LONGER)
    world.pass_time(TTL)
    grown = world.own.getattr(node)
    world.containers.offsets[A_PID] = 5
    world.pass_time(STEP_NS)
    assert world.own.getattr(node) == grown._replace(valid=10 * MS)
    world.containers.offsets[A_PID] = 0
    world.pass_time(10 * MS)
    assert content(world, node) == padded(LONGER, grown.size)


# -- containers that begin and end -------------------------------------------------------------


def test_an_unknown_container_shows_the_host_and_is_asked_for_again_at_once(world: World) -> None:
    node = world.file()
    world.containers.unknown.add((A, 0))
    attr = world.own.getattr(node, 0)
    assert (attr.size, attr.valid) == (len(HOST_TEXT), 0)
    assert world.own.read(node, pid=0).rstrip() == HOST_TEXT.rstrip()
    world.pass_time(STEP_NS)
    world.own.getattr(node, A_PID)
    assert content(world, node).rstrip(b" \n") == TEXT.rstrip()


def test_the_old_nodes_of_a_number_show_the_host_until_the_next_container_is_looked_up(
    world: World,
) -> None:
    old = world.file()
    assert content(world, old) == TEXT
    before = world.own.lookup(world.own.walk(world.directory()), b"proc").generation
    world.end(A)
    world.start(A, 30, b"text of C\n", epoch=9999)
    world.pass_time(TTL)
    world.own.getattr(old, 30)  # the size
    world.pass_time(STEP_NS)
    world.own.getattr(old, 30)  # the text
    assert world.own.read(old, pid=30).rstrip(b" \n") == HOST_TEXT.rstrip()
    world.pass_time(TTL)
    node = world.file()  # LOOKUP: the kernel drops the old inode, as its generation is another
    assert node == old
    assert world.own.lookup(world.own.walk(world.directory()), b"proc").generation != before
    assert content(world, node) == b"text of C\n"


def test_no_text_of_the_container_before_is_left_in_the_page_or_the_size(world: World) -> None:
    world.say(LONGER)
    content(world, world.file())
    world.end(A)
    world.start(A, 30, b"C\n", epoch=9999)
    node = world.file()  # at once: the old text is still good for its life
    assert world.own.getattr(node, 30).size == len(b"C\n")
    assert world.own.read(node, pid=30).rstrip() == b"C"


def test_a_container_of_the_same_tick_does_not_see_the_text_of_the_one_before(
    world: World,
) -> None:
    """Both begin in one clock tick, so their keys and generations are the same."""
    epoch = world.containers.live[A, 0].epoch
    link = world.own.walk("proc/meminfo")
    world.own.readlink(link, A_PID)
    assert content(world, world.file()) == TEXT
    world.end(A)
    world.start(A, 30, b"text of C\n", epoch)
    world.own.readlink(link, 30)  # the runtime resolves the path before it binds
    node = world.file()
    assert world.own.getattr(node, 30).size == len(b"text of C\n")
    assert world.own.read(node, pid=30).rstrip() == b"text of C"


def test_readlink_by_the_same_container_keeps_its_text(world: World) -> None:
    link = world.own.walk("proc/meminfo")
    world.own.readlink(link, A_PID)
    first = world.own.getattr(world.file())
    world.own.readlink(link, A_PID)
    assert world.own.getattr(world.file()) == first


def test_keys_of_containers_that_have_ended_are_not_found(world: World) -> None:
    directory = world.directory()
    own = world.own.walk("own")
    name = directory.partition("/")[2].encode() + b"\0"
    world.own.walk(directory)
    world.end(A)
    world.start(A, 30, b"text of C\n", epoch=9999)
    world.file()
    for pid in (HOST_PID, 30, B_PID):
        assert world.own.error(wire.LOOKUP, own, pid, name) == errno.ENOENT


def test_the_key_of_a_container_that_ended_before_it_was_looked_up_is_not_found(
    world: World,
) -> None:
    name = world.directory().partition("/")[2].encode() + b"\0"
    world.end(A)
    assert world.own.error(wire.LOOKUP, world.own.walk("own"), HOST_PID, name) == errno.ENOENT


def test_the_key_that_the_kernel_has_is_found_though_its_container_is_not(world: World) -> None:
    """A LOOKUP that fails would take the dentry from under binds in every container."""
    directory = world.directory()
    node = world.own.walk(directory)
    world.next_server()
    world.containers.unknown.add((A, 0))
    assert world.own.walk(directory, 0) == node


def test_guessed_keys_are_not_found(world: World) -> None:
    own = world.own.walk("own")
    for name in (
        b"4026532180",
        b"4026532180-b4",
        b"4026532180-b4-" + b"0" * 32,
        b"0-0-" + b"0" * 32,
    ):
        assert world.own.error(wire.LOOKUP, own, B_PID, name + b"\0") == errno.ENOENT


# -- listings ----------------------------------------------------------------------------------


def test_own_is_listed_for_the_host_alone(world: World) -> None:
    own = world.own.walk("own")
    keys = {world.directory(pidns).partition("/")[2].encode() for pidns in (A, B)}
    assert set(world.own.names(own, HOST_PID)) == {b"host"} | keys
    for pid in (A_PID, B_PID, 0, 999):
        assert world.own.error(wire.OPENDIR, own, pid, bytes(8)) == errno.EACCES
        assert world.own.error(wire.READDIR, own, pid, read_in(0, 0, 4096)) == errno.EACCES


@pytest.mark.parametrize("size", [40, 100, 4096])
def test_a_listing_has_what_lookup_finds_with_the_same_numbers(world: World, size: int) -> None:
    todo = [(nodes.ROOT, HOST_PID)]
    seen = []
    while todo:
        directory, pid = todo.pop()
        listing = world.own.readdir(directory, pid, size if directory != nodes.node(0, 7) else 4096)
        assert len({name for name, _, _ in listing}) == len(listing)
        for name, ino, kind in listing:
            entry = world.own.lookup(directory, name, pid)
            assert entry.attr.ino == ino
            assert 0 < ino < 1 << 31
            assert entry.attr.mode >> 12 == kind
            assert world.own.getattr(entry.node, pid).ino == ino
            seen.append(name)
            if stat.S_ISDIR(entry.attr.mode):
                todo.append((entry.node, pid))
    assert seen.count(b"meminfo") == 4  # the link, the host's, and those of two containers


def test_a_hidden_cpu_is_not_in_its_containers_directory(world: World) -> None:
    path = "sys/devices/system/cpu"
    own = world.own.walk(f"{world.directory()}/{path}")
    host = world.own.walk(f"own/host/{path}", HOST_PID)
    assert {b"cpu0", b"cpu1"} & set(world.own.names(own)) == {b"cpu0"}
    assert {b"cpu0", b"cpu1"} & set(world.own.names(host, HOST_PID)) == {b"cpu0", b"cpu1"}
    assert world.own.error(wire.LOOKUP, own, A_PID, b"cpu1\0") == errno.ENOENT
    assert world.own.lookup(host, b"cpu1", HOST_PID)


def test_what_is_below_a_key_depends_on_no_caller(world: World) -> None:
    for path in ("", "/proc", "/sys/devices/system/cpu"):
        node = world.own.walk(world.directory() + path)
        listings = [world.own.readdir(node, pid) for pid in (A_PID, B_PID, HOST_PID, 0)]
        assert all(listing == listings[0] for listing in listings)


def test_a_link_of_sysfs_is_the_hosts(world: World) -> None:
    node = world.own.walk(f"{world.directory()}/sys/devices/system/cpu/cpu0/subsystem")
    assert world.own.readlink(node) == b"../../cpu"


# -- links -------------------------------------------------------------------------------------

LINKS = ["proc/meminfo", "proc/pressure", "sys/devices/system/cpu", "sys/devices/system/memory"]


@pytest.mark.parametrize("path", LINKS)
def test_links_lead_a_container_to_its_own_directory(world: World, path: str) -> None:
    target = world.own.readlink(world.own.walk(path), A_PID)
    up = "../" * path.count("/")
    assert target == f"{up}{world.directory()}/{path}".encode()
    assert world.containers.prewarmed == [((A, 0), A_PID)]


@pytest.mark.parametrize("path", LINKS)
def test_links_lead_the_host_to_the_caller_mount_where_it_is_seen(world: World, path: str) -> None:
    link = world.own.walk(path)
    up = "../" * path.count("/")
    assert world.own.readlink(link, HOST_PID) == f"{up}own/host/{path}".encode()
    world.containers.sees.add(HOST_PID)
    assert world.own.readlink(link, HOST_PID) == f"{CALLER_MOUNT}/{path}".encode()


@pytest.mark.parametrize("pid", [0, 999])
def test_links_lead_an_unknown_caller_to_the_hosts_text(world: World, pid: int) -> None:
    world.containers.sees.add(pid)
    assert world.own.readlink(world.own.walk("proc/meminfo"), pid) == b"../own/host/proc/meminfo"


def test_links_lead_a_container_that_cannot_be_found_to_the_hosts_text(world: World) -> None:
    del world.containers.live[A, 0]
    assert world.own.readlink(world.own.walk("proc/meminfo")) == b"../own/host/proc/meminfo"


@pytest.mark.parametrize("sees", [True, False])
@pytest.mark.parametrize("triggers", [True, False])
def test_pressure_triggers_need_the_caller_mount(world: World, triggers: bool, sees: bool) -> None:
    world.has_triggers = triggers
    world.next_server()
    if sees:
        world.containers.sees.add(A_PID)
    own = f"../{world.directory()}/proc".encode()
    target = world.own.readlink(world.own.walk("proc/pressure"))
    if triggers and sees:
        assert target == f"{CALLER_MOUNT}/proc/pressure".encode()
    else:
        assert target == own + b"/pressure"
    assert world.own.readlink(world.own.walk("proc/meminfo")) == own + b"/meminfo"


# -- the next server ---------------------------------------------------------------------------


def test_a_server_that_takes_over_goes_on_with_sizes_and_texts(world: World) -> None:
    node = world.file()
    world.say(LONGER)
    first = in_use(world, node)
    world.next_server()
    assert world.own.read(node).rstrip() == LONGER.rstrip()  # a page that was dropped
    assert world.own.getattr(node).valid == STEP_NS  # the kernel may not have been told yet
    world.pass_time(STEP_NS)
    world.say(SHORT)
    second = world.own.getattr(node)
    assert second.size == first.size
    assert second.mtime > first.mtime
    assert content(world, node) == padded(SHORT, len(LONGER))


def test_a_server_that_takes_over_has_the_pages_filled_again_once(world: World) -> None:
    """Another process may have filled them: the rescue server, with the host's text."""
    node = world.file()
    first = in_use(world, node)
    world.next_server()
    assert world.own.getattr(node).mtime == first.mtime
    world.pass_time(STEP_NS)
    second = world.own.getattr(node)
    assert second.size == first.size
    assert second.mtime > first.mtime
    content(world, node)
    world.pass_time(TTL)
    assert world.own.getattr(node) == second


def test_a_node_that_the_next_container_has_not_looked_up_shows_the_host(world: World) -> None:
    """A descriptor that outlived its container; another file of the next one is looked up."""
    old = world.file()
    assert content(world, old) == TEXT
    directory = nodes.node(nodes.pair((A, 0)), nodes.VIEW_SYS)
    world.end(A)
    world.start(A, 30, b"text of C\n", epoch=9999)
    world.own.walk(f"{world.directory()}/proc/cpuinfo")
    world.pass_time(2 * S)
    assert content(world, old) == HOST_TEXT
    assert world.own.error(wire.LOOKUP, directory, A_PID, b"devices\0") == errno.ESTALE
    world.file()
    world.pass_time(2 * S)
    assert content(world, old) == b"text of C\n"


def test_a_server_that_takes_over_tells_a_longer_text_in_two_steps(world: World) -> None:
    node = world.file()
    first = in_use(world, node)
    world.next_server()
    world.own.getattr(node)
    world.pass_time(STEP_NS)
    world.say(LONGER)
    step = world.own.getattr(node)
    assert step.size >= len(LONGER)
    assert step.mtime > first.mtime
    assert content(world, node) == padded(TEXT, step.size)


def test_a_server_that_takes_over_knows_which_nodes_the_kernel_has(world: World) -> None:
    world.file()
    world.end(A)
    world.start(A, 30, b"text of C\n", epoch=9999)
    world.next_server()
    node = nodes.node(nodes.pair((A, 0)), MEMINFO)
    assert world.own.getattr(node, 30).size == len(HOST_TEXT)
    assert world.own.read(node, pid=30).rstrip() == HOST_TEXT.rstrip()


def kept(world: World) -> set[int]:
    """Return the nodes of which a next server would know a text."""
    world.next_server()
    return set(world.own_mount._pages)


def test_texts_of_nodes_that_nobody_reads_are_forgotten(world: World) -> None:
    idle, ended, read = world.file(), world.file(B), world.file(path="proc/loadavg")
    for node in (idle, ended, read):
        world.own.getattr(node)
    world.end(B)
    for _ in range(200):
        world.pass_time(TTL)
        world.own.getattr(read)
    assert set(world.own_mount._pages) == {read}
    assert kept(world) == {read}


def test_a_server_that_was_stopped_forgets_no_text_that_readers_wait_for(world: World) -> None:
    """The READ was sent before the stop, for the size that was told then."""
    node, other = world.file(), world.file(B)
    in_use(world, other)
    world.pass_time(4 * S)
    in_use(world, node)
    world.say(LONGER)
    world.pass_time(3 * S)  # stopped
    world.own.getattr(other, B_PID)
    assert world.own.read(node)[: len(TEXT)] == TEXT


def test_a_text_that_lives_long_is_not_forgotten_meanwhile(world: World) -> None:
    world.next_server(ttl=60 * S)
    node = world.file()
    first = in_use(world, node)
    for path in ("proc/loadavg", "proc/cpuinfo") * 5:
        world.pass_time(5 * S)
        world.own.getattr(world.file(path=path))
    assert world.own.getattr(node) == first._replace(valid=10 * S)


def test_the_texts_of_a_number_are_forgotten_with_the_next_container(world: World) -> None:
    world.own.getattr(world.file())
    world.own.getattr(other := world.file(B))
    world.end(A)
    world.start(A, 30, b"text of C\n", epoch=9999)
    world.file()
    assert kept(world) == {other}


# -- failures ----------------------------------------------------------------------------------


def test_a_bug_in_a_view_shows_the_hosts_file(world: World) -> None:
    world.say(b"bug")
    assert content(world, world.file()) == HOST_TEXT
    assert world.guard.failures["proc/meminfo"] == 1


def test_an_empty_text_shows_the_hosts_file(world: World) -> None:
    world.say(b"")
    assert content(world, world.file()) == HOST_TEXT


def test_the_fallback_is_the_hosts_file_and_is_asked_for_again_at_once(world: World) -> None:
    node = world.file()
    error, data = world.own.fallback(wire.GETATTR, node, A_PID, bytes(16))
    assert error == 0
    assert data[:12] == bytes(12)  # valid for 0 s
    error, page = world.own.fallback(wire.READ, node, A_PID, read_in(0, 0, 4096))
    assert (error, page) == (0, HOST_TEXT.ljust(4096, b"\n"))
    world.pass_time(TTL)
    world.own.getattr(node)
    assert content(world, node).rstrip(b" \n") == TEXT.rstrip()


def test_the_fallback_keeps_the_size_that_was_told(world: World) -> None:
    world.say(b"x" * 100 + b"\n")
    node = world.file()
    size = in_use(world, node).size
    error, data = world.own.fallback(wire.GETATTR, node, A_PID, bytes(16))
    assert error == 0
    assert attributes(data).size == size
    assert content(world, node) == padded(HOST_TEXT, size)


def test_the_fallback_of_anything_else_is_eio(world: World) -> None:
    for opcode, node in (
        (wire.LOOKUP, nodes.ROOT),
        (wire.READDIR, nodes.ROOT),
        (wire.GETATTR, nodes.ROOT),
        (wire.READLINK, nodes.CPU_LINK),
    ):
        assert world.own.fallback(opcode, node, A_PID, bytes(40))[0] == errno.EIO


def test_a_host_file_that_cannot_be_read_exists_and_reading_it_is_eio(world: World) -> None:
    node = world.file()
    world.say(b"bug")
    del world.host.files["proc/meminfo"]
    world.host.directory = None
    attr = world.own.getattr(node)
    assert (stat.S_IMODE(attr.mode), attr.valid) == (0o444, 0)
    assert world.own.error(wire.READ, node, A_PID, read_in(0, 0, 4096)) == errno.EIO
    assert world.own.fallback(wire.READ, node, A_PID, read_in(0, 0, 4096))[0] == errno.EIO


def test_a_file_of_sysfs_that_went_away_is_estale(world: World) -> None:
    path = world.root / "sys/devices/system/cpu/online"
    node = world.file(path="sys/devices/system/cpu/online")
    world.next_server()
    path.rename(path.with_name("gone"))
    path.with_name("gone").unlink()
    assert world.own.error(wire.GETATTR, node, A_PID, bytes(16)) == errno.ESTALE


@pytest.mark.parametrize("index", [3, 63, nodes.LINKS + 40, nodes.FILES + 60, nodes.SYSFS + 5])
@pytest.mark.parametrize("opcode", [wire.GETATTR, wire.READ, wire.READLINK, wire.READDIR])
def test_a_node_of_another_version_is_an_error_and_no_bug(
    world: World, index: int, opcode: int
) -> None:
    """After a downgrade the kernel may have nodes of files that this version has not."""
    node = nodes.node(nodes.pair((A, 0)), index)
    assert world.own.error(opcode, node, A_PID, read_in(0, 0, 4096))
    assert not world.guard.failures


# -- the fair queue ----------------------------------------------------------------------------


def test_requests_belong_to_the_container_of_the_node_else_to_the_caller(world: World) -> None:
    key = world.own_mount.key
    mine, other = (nodes.node(nodes.pair((pidns, 0)), MEMINFO) for pidns in (A, B))
    assert key(wire.GETATTR, mine, HOST_PID, 0) == key(wire.READ, mine, B_PID, 0)
    assert key(wire.READ, mine, A_PID, 0) != key(wire.READ, other, A_PID, 0)
    assert key(wire.READLINK, nodes.CPU_LINK, A_PID, 0) != key(
        wire.READLINK, nodes.CPU_LINK, B_PID, 0
    )


def test_the_key_of_the_host_is_not_that_of_a_container(world: World) -> None:
    assert world.callers.host == nodes.pair((HOST, 0))
    assert world.own.lookup(world.own.walk("own"), b"host").generation == 0
    assert re.fullmatch(r"own/4026532180-54-[0-9a-f]{32}", world.directory())


def test_a_source_that_fails_shows_the_hosts_file_without_a_word(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    del world.containers.live[A, 0].texts["proc/meminfo"]
    assert content(world, world.file()) == HOST_TEXT
    assert not caplog.records
    assert not world.guard.failures


def test_requests_of_a_container_have_one_turn_whether_they_are_for_links_or_files(
    world: World,
) -> None:
    key = world.own_mount.key
    file = nodes.node(nodes.pair((A, 0)), MEMINFO)
    assert key(wire.READLINK, nodes.CPU_LINK, A_PID, 0) == key(wire.GETATTR, file, A_PID, 0)


def test_a_container_that_has_no_place_in_a_node_id_is_not_listed(world: World) -> None:
    world.containers.live[5, 0] = world.containers.live[A, 0]
    assert len(world.own.names(world.own.walk("own"), HOST_PID)) == 3


def test_a_page_that_the_fallback_filled_was_read(world: World) -> None:
    """So its size may not shrink while the reader has the page."""
    node = world.file()
    world.own.fallback(wire.READ, node, A_PID, read_in(0, 0, 4096))
    world.pass_time(TTL)
    assert world.own.getattr(node).size == len(HOST_TEXT)
    assert content(world, node) == padded(TEXT, len(HOST_TEXT))


def test_a_thread_that_may_be_in_the_middle_keeps_a_text_that_has_just_ended(
    world: World,
) -> None:
    """On a busy machine it is not seen to wait in time."""
    node = world.file()
    in_use(world, node)
    world.say(b"TEXT OF A\n")
    world.containers.offsets[A_PID] = -1
    world.pass_time(TTL + MS)
    assert content(world, node) == TEXT
    world.pass_time(TTL + STEP_NS)
    assert content(world, node) == b"TEXT OF A\n"


def test_a_thread_that_may_be_in_the_middle_keeps_a_text_over_a_handover(world: World) -> None:
    node = world.file()
    in_use(world, node)
    world.say(b"TEXT OF A\n")
    world.containers.offsets[A_PID] = -1
    world.next_server()
    world.pass_time(S)
    assert content(world, node) == TEXT
    world.pass_time(TTL + STEP_NS)
    assert content(world, node) == b"TEXT OF A\n"


def test_readlink_in_a_container_that_lives_forgets_no_size_after_a_handover(world: World) -> None:
    """_found: before is None with each new server, so pages that were loaded are dropped."""
    node = world.file()
    size = in_use(world, node).size
    world.next_server()
    world.own.readlink(world.own.walk("proc/meminfo"), A_PID)
    world.say(SHORT)
    assert world.own.getattr(node).size == size
    world.pass_time(STEP_NS)
    assert world.own.getattr(node).size == size
    assert content(world, node) == padded(SHORT, size)
