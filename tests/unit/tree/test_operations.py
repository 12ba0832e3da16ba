"""Requests through pyfuse3: names, listings, and what is refused."""

from __future__ import annotations

import errno
import inspect
import logging
import stat
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
import trio

from pylxcfs.tree import nodes
from pylxcfs.tree.operations import Operations
from tests.unit.tree.kit import A_PID, B_PID, MEMINFO, PRESSURE, Bug, World

CTX: Any = SimpleNamespace(pid=A_PID, uid=0, gid=0, umask=0o22)


@pytest.fixture
def ops(world: World) -> Operations:
    return Operations(world.caller_mount, world.guard)


def run(method: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    return trio.run(method, *args)


def refusal(method: Callable[..., Awaitable[Any]], *args: Any) -> int:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        trio.run(method, *args)
    return caught.value.errno


@pytest.mark.parametrize(
    "name",
    ["mkdir", "mknod", "create", "symlink", "link", "unlink", "rmdir", "rename", "setxattr",
     "removexattr"],
)  # fmt: skip
def test_what_changes_something_is_eperm(ops: Operations, name: str) -> None:
    count = len(inspect.signature(getattr(pyfuse3.Operations, name)).parameters) - 1
    assert refusal(getattr(ops, name), *[nodes.VIEW_PROC] * count) == errno.EPERM


def test_a_name_has_the_attributes_of_its_node(ops: Operations, world: World) -> None:
    proc = run(ops.lookup, nodes.ROOT, b"proc", CTX)
    assert proc.st_ino == nodes.VIEW_PROC
    assert stat.S_ISDIR(proc.st_mode)
    assert proc.entry_timeout > 0
    entry = run(ops.lookup, proc.st_ino, b"meminfo", CTX)
    assert entry.st_ino == MEMINFO
    assert entry.st_mode == stat.S_IFREG | 0o444
    assert entry.attr_timeout == 0  # the size is asked for each time
    assert refusal(ops.lookup, proc.st_ino, b"nothing", CTX) == errno.ENOENT


def test_lookup_renders_nothing(ops: Operations, world: World) -> None:
    world.say(b"bug")
    run(ops.lookup, nodes.VIEW_PROC, b"meminfo", CTX)
    assert not world.guard.failures


def test_attributes_are_those_that_the_loop_gives(ops: Operations, world: World) -> None:
    size: Any = SimpleNamespace(update_size=True)
    for pid in (A_PID, B_PID):
        found = run(ops.setattr, MEMINFO, None, size, None, SimpleNamespace(pid=pid))
        attr = world.caller.getattr(MEMINFO, pid)
        assert (found.st_ino, found.st_size, found.st_mode) == (attr.ino, attr.size, attr.mode)
        assert found.st_mtime_ns == attr.mtime


class Reply:
    """The buffer of a READDIR, with room for some entries."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.entries: list[tuple[bytes, int]] = []
        self.position = 0


@pytest.fixture
def list_directory(
    ops: Operations, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int, int], list[tuple[bytes, int]]]:
    def reply(token: Any, name: bytes, attributes: Any, position: int) -> bool:
        if not token.room:
            return False
        token.room -= 1
        token.entries.append((name, attributes.st_ino))
        token.position = position
        return True

    monkeypatch.setattr(pyfuse3, "readdir_reply", reply)

    def all_of(node: int, room: int) -> list[tuple[bytes, int]]:
        async def read() -> list[tuple[bytes, int]]:
            handle = await ops.opendir(node, CTX)
            found: list[tuple[bytes, int]] = []
            position = 0
            while True:
                token: Any = Reply(room)
                await ops.readdir(handle, position, token)
                if not token.entries:
                    await ops.releasedir(handle)
                    return found
                found += token.entries
                position = token.position

        return trio.run(read)

    return all_of


@pytest.mark.parametrize("room", [1, 2, 100])
def test_a_listing_in_parts_is_whole_and_has_the_numbers_of_lookup(
    ops: Operations, list_directory: Callable[[int, int], list[tuple[bytes, int]]], room: int
) -> None:
    cpu = run(ops.lookup, nodes.VIEW_SYSTEM, b"cpu", CTX).st_ino
    for node in (nodes.ROOT, nodes.VIEW_PROC, cpu):
        listing = list_directory(node, room)
        assert len({name for name, _ in listing}) == len(listing) > 1
        for name, number in listing:
            assert run(ops.lookup, node, name, CTX).st_ino == number
    assert b"cpu1" not in {name for name, _ in listing}


def test_an_entry_that_went_away_since_is_left_out(
    world: World,
    list_directory: Callable[[int, int], list[tuple[bytes, int]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed = world.caller_mount.entries

    def entries(handle: int) -> Any:
        found = listed(handle)
        return [*found, found[0]._replace(name=b"gone", number=nodes.SYSFS + 1)]

    monkeypatch.setattr(world.caller_mount, "entries", entries)
    assert b"gone" not in {name for name, _ in list_directory(nodes.VIEW_PROC, 100)}


def test_a_link_of_sysfs_is_the_hosts(ops: Operations) -> None:
    node = nodes.VIEW_SYSTEM
    for name in (b"cpu", b"cpu0", b"subsystem"):
        node = run(ops.lookup, node, name, CTX).st_ino
    assert run(ops.readlink, node, CTX) == b"../../cpu"
    assert refusal(ops.readlink, MEMINFO, CTX) == errno.EINVAL


def test_o_trunc_passes_on_files_of_proc_alone(ops: Operations) -> None:
    size: Any = SimpleNamespace(update_size=True)
    mode: Any = SimpleNamespace(update_size=False)
    for node in (MEMINFO, PRESSURE):
        assert run(ops.setattr, node, None, size, None, CTX).st_ino == node
        assert refusal(ops.setattr, node, None, mode, None, CTX) == errno.EPERM
    online = nodes.VIEW_SYSTEM
    for name in (b"cpu", b"online"):
        online = run(ops.lookup, online, name, CTX).st_ino
    assert refusal(ops.setattr, online, None, size, None, CTX) == errno.EPERM


def test_a_bug_is_eio_and_counted(
    ops: Operations, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object) -> None:
        raise Bug

    for name in ("lookup", "attributes", "open_directory", "entries"):
        monkeypatch.setattr(world.caller_mount, name, bug)
    monkeypatch.setattr(world.names, "target", bug)
    size: Any = SimpleNamespace(update_size=True)
    assert refusal(ops.lookup, nodes.ROOT, b"proc", CTX) == errno.EIO
    assert refusal(ops.setattr, MEMINFO, None, size, None, CTX) == errno.EIO
    assert refusal(ops.readlink, MEMINFO, CTX) == errno.EIO
    assert refusal(ops.opendir, nodes.ROOT, CTX) == errno.EIO
    assert refusal(ops.readdir, 5, 0, None) == errno.EIO
    assert sum(world.guard.failures.values()) == 5


def test_statfs_is_that_of_procfs(ops: Operations) -> None:
    data = run(ops.statfs, CTX)
    assert (data.f_blocks, data.f_bsize, data.f_namemax) == (0, 4096, 255)


def test_files_have_no_extended_attributes(ops: Operations) -> None:
    assert refusal(ops.getxattr, MEMINFO, b"user.x", CTX) == errno.ENOSYS


def test_no_process_can_fill_the_log_with_stacks(
    ops: Operations, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        ops.stacktrace()
    assert not caplog.records
