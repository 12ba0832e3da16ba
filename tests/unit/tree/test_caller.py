"""The caller mount: each open file has the view of its opener, and no page is ever filled."""

from __future__ import annotations

import errno
import os
import select
import stat
import threading
from pathlib import Path

import pytest

from pylxcfs.errors import Refused
from pylxcfs.fuse import wire
from pylxcfs.tree import nodes
from pylxcfs.tree.caller import Texts
from tests.unit.tree.kit import (
    A_PID,
    B_PID,
    CPUINFO,
    HOST_PID,
    HOST_TEXT,
    MEMINFO,
    OPEN,
    PRESSURE,
    PRIVATE,
    TTL,
    A,
    B,
    FakeKnown,
    World,
    read_in,
)

TEXT = b"text of A\n"


def open_file(world: World, node: int = MEMINFO, pid: int = A_PID, flags: int = os.O_RDONLY) -> int:
    """Open as the kernel does; return the handle."""
    data = world.caller.succeed(wire.OPEN, node, pid, wire.OPEN_IN.pack(flags))
    handle, how = OPEN.unpack(data)
    assert how == wire.FOPEN_DIRECT_IO
    return handle


def read(
    world: World,
    handle: int,
    offset: int = 0,
    size: int = 65536,
    *,
    node: int = MEMINFO,
    pid: int = A_PID,
) -> bytes:
    return world.caller.read(node, offset, size, pid, PRIVATE, handle)


def release(world: World, handle: int, node: int = MEMINFO) -> None:
    world.caller.succeed(wire.RELEASE, node, 0, wire.RELEASE_IN.pack(handle) + bytes(16))


def whole(world: World, pid: int, node: int = MEMINFO) -> bytes:
    """Open, read to the end, close."""
    handle = open_file(world, node, pid)
    text = read(world, handle, node=node, pid=pid)
    assert read(world, handle, len(text), node=node, pid=pid) == b""
    release(world, handle, node)
    return text


# -- whose view it is --------------------------------------------------------------------------


def test_each_opener_has_its_own_view_of_one_inode(world: World) -> None:
    for _ in range(2):
        assert whole(world, A_PID) == TEXT
        assert whole(world, B_PID) == b"text of B\n"
        assert whole(world, HOST_PID) == HOST_TEXT


@pytest.mark.parametrize("pid", [0, 999])
def test_an_unknown_opener_has_the_hosts_view(world: World, pid: int) -> None:
    assert whole(world, pid) == HOST_TEXT


def test_a_handle_has_the_view_of_its_opener_whoever_reads(world: World) -> None:
    handle = open_file(world, pid=A_PID)
    assert read(world, handle, pid=B_PID) == TEXT
    handle = open_file(world, pid=B_PID)
    assert read(world, handle, pid=HOST_PID) == b"text of B\n"


def test_host_processes_of_two_cgroups_have_two_views(world: World) -> None:
    """As containers with --pid=host."""
    for pid, text in ((40, b"of one\n"), (41, b"of the other\n")):
        world.containers.processes[pid] = world.containers.processes[HOST_PID]
        world.containers.host_cgroups[pid] = FakeKnown(texts={"proc/meminfo": text})
    handles = {pid: open_file(world, pid=pid) for pid in (40, 41, HOST_PID)}
    assert read(world, handles[40], pid=40) == b"of one\n"
    assert read(world, handles[41], pid=41) == b"of the other\n"
    assert read(world, handles[HOST_PID], pid=HOST_PID) == HOST_TEXT
    assert world.caller.getattr(MEMINFO, 40).size == len(b"of one\n")
    assert world.caller.getattr(MEMINFO, 41).size == len(b"of the other\n")


def test_a_32_bit_reader_has_its_own_text_where_that_matters(world: World) -> None:
    world.containers.compat.add(A_PID)
    assert whole(world, A_PID, CPUINFO) == TEXT + b"32 bits\n"
    assert world.caller.getattr(CPUINFO, A_PID).size == len(TEXT + b"32 bits\n")
    assert whole(world, A_PID) == TEXT
    world.containers.compat.clear()
    assert whole(world, A_PID, CPUINFO) == TEXT
    assert world.caller.getattr(CPUINFO, A_PID).size == len(TEXT)


def test_a_handle_of_a_32_bit_reader_stays_one(world: World) -> None:
    world.containers.compat.add(A_PID)
    handle = open_file(world, CPUINFO)
    world.containers.compat.clear()
    world.next_server()
    assert read(world, handle, node=CPUINFO) == TEXT + b"32 bits\n"


# -- pages and sizes ---------------------------------------------------------------------------


def test_a_read_that_would_fill_a_page_is_einval(world: World) -> None:
    """sendfile(2), splice(2), private mappings: what they fill all would share."""
    handle = open_file(world)
    for offset in (0, 4096):
        body = read_in(handle, offset, 4096, 0)
        assert world.caller.error(wire.READ, MEMINFO, A_PID, body) == errno.EINVAL
    assert read(world, handle) == TEXT


def test_the_fallback_fills_no_page_either(world: World) -> None:
    body = read_in(open_file(world), 0, 4096, 0)
    assert world.caller.fallback(wire.READ, MEMINFO, A_PID, body) != (0, HOST_TEXT)
    assert world.caller.fallback(wire.READ, MEMINFO, A_PID, body)[1] == b""


@pytest.mark.parametrize("pid", [A_PID, B_PID, HOST_PID, 0])
def test_the_size_is_that_of_what_the_caller_reads_and_is_asked_for_each_time(
    world: World, pid: int
) -> None:
    world.say(b"a longer text of A\n")
    attr = world.caller.getattr(MEMINFO, pid)
    assert attr.valid == 0
    assert attr.size == len(whole(world, pid))
    assert attr.ino == MEMINFO


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_TRUNC])
def test_an_open_for_writing_was_refused_where_procfs_refuses_the_write(
    world: World, flags: int
) -> None:
    """Without write permission the kernel lets only root get here (default_permissions)."""
    for node, number in ((MEMINFO, errno.EIO), (PRESSURE, errno.EOPNOTSUPP)):
        assert not world.caller.getattr(node).mode & 0o222
        handle = open_file(world, node, flags=flags)
        assert write(world, handle, b"some 150000 1000000\0", node) == (number, b"")
        assert read(world, handle, node=node)


def test_a_file_of_sysfs_is_not_opened_for_writing(world: World) -> None:
    node = nodes.VIEW_SYSTEM
    for name in (b"cpu", b"online"):
        node = world.caller_mount.lookup(node, name)
    body = wire.OPEN_IN.pack(os.O_RDWR)
    assert world.caller.error(wire.OPEN, node, A_PID, body) == errno.EACCES


def test_a_directory_is_opened_by_opendir_alone(world: World) -> None:
    body = wire.OPEN_IN.pack(os.O_RDONLY)
    assert world.caller.error(wire.OPEN, nodes.VIEW_PROC, A_PID, body) == errno.EISDIR


def test_the_modes_are_those_of_the_host(world: World) -> None:
    proc = world.caller_mount.lookup(nodes.ROOT, b"proc")
    modes = {
        name: stat.S_IMODE(world.caller.getattr(world.caller_mount.lookup(proc, name)).mode)
        for name in (b"meminfo", b"secret")
    }
    assert modes == {b"meminfo": 0o444, b"secret": 0o400}


def test_a_file_that_cannot_be_read_exists(world: World) -> None:
    del world.host.files["proc/meminfo"]
    world.host.directory = None
    world.say(b"bug")
    assert stat.S_IMODE(world.caller.getattr(MEMINFO).mode) == 0o444
    body = read_in(open_file(world), 0, 4096, PRIVATE)
    assert world.caller.error(wire.READ, MEMINFO, A_PID, body) == errno.EIO


# -- texts of handles --------------------------------------------------------------------------


def test_a_handle_keeps_its_text_until_it_returns_to_the_start(world: World) -> None:
    handle = open_file(world)
    assert read(world, handle, 0, 4) == b"text"
    world.say(b"TEXT OF A\n")
    world.pass_time(10 * TTL)
    assert read(world, handle, 4, 100) == TEXT[4:]
    assert read(world, handle, 4, 100) == TEXT[4:]
    assert read(world, handle, 0, 100) == b"TEXT OF A\n"
    assert read(world, handle, 10, 100) == b""


def test_texts_are_shared_within_their_life(world: World) -> None:
    assert whole(world, A_PID) == TEXT
    world.say(b"TEXT OF A\n")
    world.pass_time(TTL - 1)
    assert whole(world, A_PID) == TEXT
    world.pass_time(1)
    assert whole(world, A_PID) == b"TEXT OF A\n"


def test_a_changed_policy_is_shown_at_the_next_read(world: World) -> None:
    whole(world, A_PID)
    world.say(b"TEXT OF A\n")
    world.caller_mount.changed()
    assert whole(world, A_PID) == b"TEXT OF A\n"


def test_renderings_that_have_expired_are_forgotten(world: World) -> None:
    for pid in (A_PID, B_PID):
        whole(world, pid)
    world.pass_time(TTL)
    whole(world, A_PID)
    world.caller_mount.sweep()
    assert len(world.caller_mount._renderings) == 1


def test_the_next_container_with_the_same_number_has_its_own_text(world: World) -> None:
    assert whole(world, A_PID) == TEXT
    world.end(A)
    world.start(A, 30, b"text of C\n", epoch=100)
    assert whole(world, 30) == b"text of C\n"


# -- the next server ---------------------------------------------------------------------------


def test_a_reader_in_pieces_gets_one_text_from_two_servers(world: World) -> None:
    handle = open_file(world)
    assert read(world, handle, 0, 4) == b"text"
    world.say(b"TEXT OF A\n")
    for at in (4, 6):
        world.next_server()
        assert read(world, handle, at, 2) == TEXT[at : at + 2]
    assert read(world, handle, 0, 100) == b"TEXT OF A\n"


def test_many_readers_in_pieces_get_their_texts(world: World) -> None:
    handles = [open_file(world, pid=pid) for pid in (A_PID, B_PID) for _ in range(300)]
    for handle in handles:
        read(world, handle, 0, 4)
    world.next_server()
    texts = [read(world, handle, 4, 100) for handle in handles]
    assert texts == [b" of A\n"] * 300 + [b" of B\n"] * 300


def test_a_reader_of_a_whole_text_gets_its_end_from_the_next_server(world: World) -> None:
    handle = open_file(world)
    assert read(world, handle) == TEXT
    world.next_server()
    world.say(b"a longer text of A\n")
    assert read(world, handle, len(TEXT)) == b""
    assert read(world, handle) == b"a longer text of A\n"


def test_a_reader_that_changed_to_whole_texts_gets_the_end_of_the_last_one(world: World) -> None:
    handle = open_file(world)
    read(world, handle, 0, 4)
    world.say(b"a longer text of A\n")
    world.pass_time(TTL)
    assert read(world, handle) == b"a longer text of A\n"
    world.next_server()
    assert read(world, handle, 4) in (b"", b"a longer text of A\n"[4:])


def test_nothing_is_left_of_a_closed_handle(world: World) -> None:
    handle = open_file(world)
    read(world, handle, 0, 4)
    release(world, handle)
    world.next_server()
    assert world.caller_mount._texts.get(handle) is None


def test_a_handle_can_be_closed_with_the_next_server(world: World) -> None:
    handle = open_file(world)
    read(world, handle, 0, 4)
    world.next_server()
    release(world, handle)
    world.next_server()
    assert world.caller_mount._texts.get(handle) is None


def test_handles_of_two_servers_are_different(world: World) -> None:
    handles = set()
    for _ in range(3):
        for _ in range(20):
            handle = open_file(world)
            read(world, handle, 0, 4)
            handles.add(handle)
        world.next_server()
    assert len(handles) == 60


# -- bounds ------------------------------------------------------------------------------------


def handle_of(pidns: int, serial: int) -> int:
    return nodes.pair((pidns, 0)) << 22 | serial


def test_an_owner_loses_its_own_oldest_text_first() -> None:
    texts = Texts(least=0, most_each=100, most=1000)
    for serial in range(4):
        lost = texts.keep(handle_of(A, serial), b"x" * 30)
    assert lost == [handle_of(A, 0)]
    assert texts.get(handle_of(A, 0)) is None
    assert all(texts.get(handle_of(A, serial)) for serial in (1, 2, 3))


def test_one_owner_never_pushes_out_texts_of_another() -> None:
    texts = Texts(least=0, most_each=100, most=220)
    texts.keep(handle_of(B, 0), b"of B")
    for serial in range(1000):
        texts.keep(handle_of(A, serial), b"x" * 30)
    assert texts.get(handle_of(B, 0)) == b"of B"


def test_where_all_have_too_much_the_largest_owner_loses() -> None:
    texts = Texts(least=0, most_each=100, most=150)
    texts.keep(handle_of(B, 0), b"x" * 60)
    texts.keep(handle_of(A, 0), b"x" * 45)
    assert texts.keep(handle_of(A, 1), b"x" * 46) == [handle_of(A, 0)]
    assert texts.get(handle_of(B, 0))


def test_one_text_that_is_too_long_is_kept_alone() -> None:
    texts = Texts(least=0, most_each=100, most=1000)
    texts.keep(handle_of(A, 0), b"x" * 30)
    texts.keep(handle_of(A, 1), b"x" * 500)
    assert texts.get(handle_of(A, 0)) is None
    assert texts.get(handle_of(A, 1)) == b"x" * 500


def test_a_text_that_is_replaced_or_dropped_is_not_counted() -> None:
    texts = Texts(least=0, most_each=100, most=1000)
    for _ in range(100):
        assert texts.keep(handle_of(A, 0), b"x" * 90) == []
    texts.drop(handle_of(A, 0))
    texts.drop(handle_of(A, 0))
    assert (texts._total, texts._held, texts._by_owner) == (0, {}, {})


def test_a_text_that_was_pushed_out_is_rendered_again(world: World) -> None:
    world.caller_mount._texts = Texts(least=0, most_each=3 * len(TEXT), most=1000)
    handles = [open_file(world) for _ in range(4)]
    for handle in handles:
        read(world, handle, 0, 4)
    assert [read(world, handle, 4, 100) for handle in handles] == [TEXT[4:]] * 4


# -- names -------------------------------------------------------------------------------------


def test_names_are_found_by_all_and_listed_for_those_who_see_them(world: World) -> None:
    mount = world.caller_mount
    node = nodes.ROOT
    for name in (b"sys", b"devices", b"system", b"cpu"):
        node = mount.lookup(node, name)
    seen = {
        pid: {entry.name for entry in mount.entries(mount.open_directory(node, pid))}
        for pid in (A_PID, HOST_PID, 0)
    }
    assert {b"cpu0", b"cpu1"} & seen[A_PID] == {b"cpu0"}
    assert {b"cpu0", b"cpu1"} & seen[HOST_PID] == seen[0] & {b"cpu0", b"cpu1"}
    assert mount.lookup(node, b"cpu1")  # a refusal would take the dentry from all


def test_the_first_listing_of_a_container_is_its_own(world: World) -> None:
    world.containers.unknown.add((A, 0))
    mount = world.caller_mount
    handle = mount.open_directory(world.contents.sysfs.index("sys/devices/system/cpu"), A_PID)
    assert b"cpu1" not in {entry.name for entry in mount.entries(handle)}


def test_the_next_server_goes_on_with_a_listing(world: World) -> None:
    handle = world.caller_mount.open_directory(nodes.VIEW_PROC, A_PID)
    before = world.caller_mount.entries(handle)
    world.next_server()
    assert world.caller_mount.entries(handle) == before
    assert {b"meminfo", b"pressure"} <= {entry.name for entry in before}


def test_a_node_has_one_number_everywhere(world: World) -> None:
    mount = world.caller_mount
    todo = [nodes.ROOT]
    seen = 0
    while todo:
        directory = todo.pop()
        for entry in mount.entries(mount.open_directory(directory, A_PID)):
            assert mount.lookup(directory, entry.name) == entry.number
            assert entry.number < 1 << 32
            attr = world.caller.getattr(entry.number)
            assert attr.ino == entry.number
            assert stat.S_IFMT(attr.mode) == stat.S_IFMT(entry.mode)
            seen += 1
            if stat.S_ISDIR(entry.mode):
                todo.append(entry.number)
    assert seen > 15


def test_what_is_not_there_is_enoent(world: World) -> None:
    for name in (b"own", b"nothing", b"missing"):
        with pytest.raises(Refused) as caught:
            world.caller_mount.lookup(nodes.ROOT, name)
        assert caught.value.errno == errno.ENOENT


# -- other requests ----------------------------------------------------------------------------


def test_what_reads_do_not_need_goes_to_pyfuse3(world: World) -> None:
    for opcode in (wire.LOOKUP, wire.OPENDIR, wire.READDIRPLUS, wire.STATFS):
        request = (opcode, 7, nodes.ROOT, A_PID, b"proc\0")
        assert opcode not in world.caller_mount.handlers
        world.caller_mount.other(request)
        assert world.sent.pop() == request


def test_a_guessed_name_does_not_reach_pyfuse3(world: World) -> None:
    with pytest.raises(Refused) as caught:
        world.caller_mount.other((wire.LOOKUP, 7, nodes.ROOT, A_PID, b"guess\0"))
    assert caught.value.errno == errno.ENOENT
    assert not world.sent


def test_requests_belong_to_the_caller_and_releases_to_the_owner_of_the_handle(
    world: World,
) -> None:
    key = world.caller_mount.key
    handle = open_file(world)
    mine = key(wire.READ, MEMINFO, A_PID, 0)
    assert key(wire.RELEASE, MEMINFO, 0, handle) == mine
    assert key(wire.READ, MEMINFO, B_PID, handle) != mine
    assert key(wire.GETATTR, nodes.ROOT, A_PID, 0) == mine


def test_the_fallback_is_the_hosts_file(world: World) -> None:
    fallback = world.caller.fallback
    error, data = fallback(wire.OPEN, MEMINFO, A_PID, wire.OPEN_IN.pack(os.O_RDONLY))
    assert error == 0
    handle, how = OPEN.unpack(data)
    assert how == wire.FOPEN_DIRECT_IO
    assert fallback(wire.READ, MEMINFO, A_PID, read_in(handle, 0, 4, PRIVATE)) == (0, b"MemT")
    assert read(world, handle, 4) == HOST_TEXT[4:]
    assert fallback(wire.GETATTR, MEMINFO, A_PID, bytes(16))[0] == 0
    assert fallback(wire.RELEASE, MEMINFO, 0, wire.RELEASE_IN.pack(handle)) == (0, b"")
    assert fallback(wire.LOOKUP, nodes.ROOT, A_PID, b"proc\0")[0] == errno.EIO


def test_the_fallback_goes_on_with_the_text_that_a_reader_began(world: World) -> None:
    handle = open_file(world)
    read(world, handle, 0, 4)
    body = read_in(handle, 4, 100, PRIVATE)
    assert world.caller.fallback(wire.READ, MEMINFO, A_PID, body) == (0, TEXT[4:])


def test_a_bug_in_a_view_shows_the_hosts_file(world: World) -> None:
    world.say(b"bug")
    assert whole(world, A_PID) == HOST_TEXT


# -- triggers ----------------------------------------------------------------------------------


@pytest.fixture
def triggers(tmp_path: Path, world: World) -> World:
    world.has_triggers = True
    world.next_server()
    return world


def write(world: World, handle: int, text: bytes, node: int = PRESSURE) -> tuple[int, bytes]:
    body = wire.WRITE_IN.pack(handle, 0, len(text)) + text
    return world.caller.request(wire.WRITE, node, A_PID, body)


def poll(world: World, handle: int, node: int = PRESSURE, poller: int = 0, flags: int = 0) -> int:
    body = wire.POLL_IN.pack(handle, poller, flags)
    data = world.caller.succeed(wire.POLL, node, A_PID, body)
    return int.from_bytes(data[:4], "little")


def test_while_triggers_are_off_a_poll_is_not_implemented(world: World) -> None:
    """A pending poll of a FUSE file can keep a machine from suspending."""
    body = wire.POLL_IN.pack(1, 1, 1)
    assert world.caller.error(wire.POLL, PRESSURE, A_PID, body) == errno.ENOSYS


def test_pressure_files_alone_are_writable(triggers: World) -> None:
    assert triggers.caller.getattr(PRESSURE).mode & 0o222
    assert not triggers.caller.getattr(MEMINFO).mode & 0o222


def test_a_trigger_is_armed_on_the_openers_own_file(triggers: World) -> None:
    handle = open_file(triggers, PRESSURE, flags=os.O_RDWR)
    error, data = write(triggers, handle, b"some 150000 1000000\0")
    assert error in (0, errno.EPIPE)
    assert triggers.containers.triggers == [((A, 0), A_PID, "proc/pressure/cpu")]
    assert data == b"" or int.from_bytes(data[:4], "little") == 20


def test_the_error_of_the_kernels_file_is_the_writers(triggers: World) -> None:
    handle = open_file(triggers, PRESSURE, flags=os.O_RDWR)
    triggers.end(A)
    assert write(triggers, handle, b"some 150000 1000000\0") == (errno.ENODEV, b"")


def test_other_files_cannot_be_written(triggers: World) -> None:
    handle = open_file(triggers, flags=os.O_RDWR)
    assert write(triggers, handle, b"x", MEMINFO) == (errno.EIO, b"")


def test_other_files_are_always_ready(triggers: World) -> None:
    assert poll(triggers, open_file(triggers), MEMINFO) & select.POLLIN


def test_a_trigger_that_a_server_took_with_it_is_an_error_at_the_next_poll(
    triggers: World,
) -> None:
    handle = open_file(triggers, PRESSURE, flags=os.O_RDWR)
    assert not poll(triggers, handle) & select.POLLERR
    triggers.next_server()
    assert poll(triggers, handle) & select.POLLERR


def test_a_listing_of_pressure_files_is_there(world: World) -> None:
    mount = world.caller_mount
    proc = mount.lookup(nodes.ROOT, b"proc")
    pressure = mount.lookup(proc, b"pressure")
    assert mount.lookup(pressure, b"cpu") == PRESSURE


def test_a_rendering_that_comes_too_late_does_not_change_the_text_of_the_reader(
    world: World,
) -> None:
    """The watchdog has given the reader the first part of the host's file by then."""

    class Disowned(threading.Thread):
        disowned = False

    handle = open_file(world)
    begun, go_on = threading.Event(), threading.Event()

    class Stuck(dict[str, bytes]):
        def get(self, *_: object) -> bytes:  # type: ignore[override]
            begun.set()
            go_on.wait()
            return TEXT

    world.containers.live[A, 0].texts = Stuck()
    body = read_in(handle, 0, 4, PRIVATE)
    thread = Disowned(target=lambda: world.caller.request(wire.READ, MEMINFO, A_PID, body))
    thread.start()
    begun.wait()
    thread.disowned = True
    assert world.caller.fallback(wire.READ, MEMINFO, A_PID, body) == (0, HOST_TEXT[:4])
    go_on.set()
    thread.join()
    assert read(world, handle, 4) == HOST_TEXT[4:]


class NoneOpen:
    """A cgroup tree without an open file."""

    def is_open(self, handle: int) -> bool:
        return False


def test_a_handle_of_the_cgroup_tree_made_later_ones_those_of_an_earlier_server(
    world: World,
) -> None:
    world.caller_mount.cgroup_handle(NoneOpen(), A_PID)
    handle = open_file(world)
    assert read(world, handle, 1) == whole(world, A_PID)[1:]
