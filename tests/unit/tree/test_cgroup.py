"""The cgroup tree: nodes, contexts, handles; cgroupfs and its callers are behind a fake port."""

from __future__ import annotations

import dataclasses
import errno
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
import trio
from trio.testing import MockClock

from pylxcfs.errors import Refused
from pylxcfs.fuse import wire
from pylxcfs.tree import nodes, operations
from pylxcfs.tree.cgroup import CgroupTree, Opened
from pylxcfs.tree.names import Names
from pylxcfs.tree.operations import Operations
from pylxcfs.tree.ports import CgroupCaller
from tests.unit.tree.kit import A_PID, B_PID, World

MEMORY = nodes.HIERARCHIES.index("memory")
ROOT, OWN, OTHER = 1, 50, 90
A_KEY, B_KEY = (1, 0), (0, 1000)
GONE_PID = 30
DIRECTORY = stat.S_IFDIR | 0o755


def _attributes(mode: int, number: int) -> os.stat_result:
    return os.stat_result((mode, number, 0, 1, 5, 6, 0, 0, 0, 0), {"st_mtime_ns": 0})


@dataclass
class View:
    """A cgroup: numbers of children by name, texts of files by name."""

    inside: bool = True
    next: str | None = None
    children: dict[str, int] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)
    written: list[tuple[str, bytes]] = field(default_factory=list)
    done: list[tuple[Any, ...]] = field(default_factory=list)
    #: Names of which a listing has read the attributes.
    listed: list[str] = field(default_factory=list)

    def stat(self, name: str = "") -> os.stat_result:
        if name and name not in self.children and name not in self.texts:
            raise FileNotFoundError(errno.ENOENT, "no such file")
        mode = stat.S_IFREG | 0o644 if name in self.texts else DIRECTORY
        number = self.children.get(name, 1000 + len(name))
        return _attributes(mode, number)

    def entries(self, after: int) -> Iterator[tuple[int, str, os.stat_result]]:
        listed = [(self.stat(name).st_ino, name) for name in (*self.children, *self.texts)]
        for number, name in sorted(found for found in listed if found[0] > after):
            self.listed.append(name)
            yield number, name, self.stat(name)

    def check_open(self, name: str, *, write: bool) -> None:
        if not self.inside:
            raise PermissionError(errno.EACCES, "outside")

    def read(self, name: str) -> bytes:
        return self.texts[name]

    def write(self, name: str, data: bytes) -> None:
        self.written.append((name, data))

    def mkdir(self, name: str, mode: int) -> None:
        self.children[name] = 77
        self.done.append(("mkdir", name, mode))

    def rmdir(self, name: str) -> None:
        self.done.append(("rmdir", name))

    def chmod(self, name: str, mode: int) -> None:
        self.done.append(("chmod", name, mode))

    def chown(self, name: str, uid: int, gid: int) -> None:
        self.done.append(("chown", name, uid, gid))


@dataclass(frozen=True)
class Caller:
    pid: int
    key: tuple[int, int]
    files: Files
    rights: bytes = b""

    def view(self, hierarchy: str, number: int) -> View:
        return self.files.view(number)

    def with_rights(self) -> Caller:
        return dataclasses.replace(self, rights=self.files.rights.get(self.pid, b"root"))


@dataclass
class Files:
    views: dict[int, View]
    rights: dict[int, bytes] = field(default_factory=dict)
    served: Any = None

    def __post_init__(self) -> None:
        self.served = {
            "memory": SimpleNamespace(
                name="memory", aliases=(), attributes=_attributes(DIRECTORY, ROOT)
            ),
            "cpu": SimpleNamespace(
                name="cpu,cpuacct",
                aliases=("cpu", "cpuacct"),
                attributes=_attributes(DIRECTORY, ROOT),
            ),
        }

    def caller(self, pid: int) -> Caller:
        return Caller(pid, self.key(pid), self)

    def key(self, pid: int) -> tuple[int, int]:
        if pid == GONE_PID:
            raise ProcessLookupError(errno.ESRCH, "it has ended")
        return A_KEY if pid == A_PID else B_KEY

    def view(self, number: int) -> View:
        if number not in self.views:
            raise OSError(errno.ESTALE, "gone")
        return self.views[number]


@pytest.fixture
def files() -> Files:
    above = View(inside=False, next="ct", children={"ct": OWN, "other": OTHER})
    own = View(children={"a": 60}, texts={"tasks": b"1\n2\n", "memory.stat": b"rss 0\n" * 1000})
    return Files({ROOT: above, OWN: own, OTHER: View(inside=False)})


@pytest.fixture
def tree(files: Files) -> CgroupTree:
    return CgroupTree(files)


def a(tree: CgroupTree) -> CgroupCaller:
    return tree.files.caller(A_PID).with_rights()


def node(number: int, name: bytes = b"") -> int:
    return nodes.cgroup_node(MEMORY, number, name)


def test_a_node_says_hierarchy_cgroup_and_file() -> None:
    for number in (1, 12345, (1 << 31) - 1, (3 << 32) + 7):
        made = nodes.cgroup_node(MEMORY, number, b"tasks")
        assert nodes.is_cgroup(made)
        assert nodes.cgroup_of(made) == (MEMORY, number, nodes.name_number(b"tasks"))
        assert nodes.cgroup_of(nodes.cgroup_node(0, number)) == (0, number, 0)
    for number in (1 << 31, 1 << 40):
        with pytest.raises(ValueError, match="does not fit"):
            nodes.cgroup_node(MEMORY, number)
    assert not nodes.is_cgroup(nodes.SYSFS + 1)


def test_names_of_files_have_numbers_of_their_own() -> None:
    names = set()
    for directory, _, files in os.walk("/sys/fs/cgroup"):
        names.update(files)
        if directory.count("/") > 5:
            break
    assert len({nodes.name_number(name.encode()) for name in names}) == len(names)


def test_hierarchies_and_their_links_are_in_cgroup(world: World, files: Files) -> None:
    names = Names(world.contents, [True] * len(world.contents.views), CgroupTree(files))
    listed = {entry.name: entry for entry in names.children(nodes.CGROUP, None)}
    assert sorted(listed) == [b"cpu", b"cpu,cpuacct", b"cpuacct", b"memory"]
    assert stat.S_ISLNK(listed[b"cpu"].mode)
    assert names.target(listed[b"cpuacct"].number) == b"cpu,cpuacct"
    assert names.child(nodes.CGROUP, b"memory", None) == node(ROOT)
    assert names.child(nodes.VIEW_ROOT, b"cgroup", None) == nodes.CGROUP
    assert names.links[names.child(nodes.ROOT, b"cgroup", None)] == "cgroup"


def test_a_name_outside_is_enomem_whether_it_exists_or_not(tree: CgroupTree) -> None:
    assert tree.lookup(node(ROOT), b"ct", a(tree)).node == node(OWN)
    for parent, name in ((ROOT, b"other"), (ROOT, b"nothing"), (OTHER, b"x"), (OTHER, b"tasks")):
        with pytest.raises(Refused) as caught:
            tree.lookup(node(parent), name, a(tree))
        assert caught.value.errno == errno.ENOMEM
    with pytest.raises(FileNotFoundError):
        tree.lookup(node(OWN), b"nothing", a(tree))
    with pytest.raises(OSError, match="gone"):
        tree.lookup(node(4444), b"x", a(tree))


def test_a_file_is_found_by_its_node_by_a_server_that_has_not_looked_it_up(
    files: Files,
) -> None:
    tree = CgroupTree(files)
    assert tree.attributes(node(OWN, b"tasks"), a(tree)).st_mode == stat.S_IFREG | 0o644


#: Has the number of cgroup.procs (nodes.name_number).
COLLIDING = "e1129687"


def test_a_directory_with_the_number_of_a_file_hides_no_file(files: Files) -> None:
    """Containers choose names of directories, and the table of names is shared by all."""
    assert nodes.name_number(COLLIDING.encode()) == nodes.name_number(b"cgroup.procs")
    procs = node(OWN, b"cgroup.procs")
    own = files.views[OWN]
    own.children[COLLIDING] = 70  # listed before the files
    tree = CgroupTree(files)
    with pytest.raises(OSError, match="gone") as caught:
        tree.attributes(procs, a(tree))
    assert caught.value.errno == errno.ESTALE
    own.texts["cgroup.procs"] = b""
    assert stat.S_ISREG(tree.attributes(procs, a(tree)).st_mode)
    assert tree.lookup(node(OWN), b"cgroup.procs", a(tree)).node == procs
    assert tree.lookup(node(OWN), COLLIDING.encode(), a(tree)).node == node(70)
    assert len(list(tree.entries(node(OWN), a(tree), 0))) == 5


def test_a_listing_goes_on_behind_a_number(tree: CgroupTree) -> None:
    every = list(tree.entries(node(OWN), a(tree), 0))
    assert [name for _, name, _ in every] == [b"a", b"tasks", b"memory.stat"]
    number = every[0][0]
    assert list(tree.entries(node(OWN), a(tree), number)) == every[1:]
    assert [found.node for _, _, found in every][:2] == [node(60), node(OWN, b"tasks")]


def test_without_an_own_cgroup_a_hierarchy_is_empty(tree: CgroupTree, files: Files) -> None:
    def refuse(number: int) -> View:
        raise PermissionError(errno.EACCES, "no cgroup of its own")

    files.view = refuse  # type: ignore[method-assign]
    assert list(tree.entries(node(ROOT), a(tree), 0)) == []
    assert tree.attributes(node(ROOT), a(tree)).st_mode == DIRECTORY
    with pytest.raises(Refused, match=os.strerror(errno.ENOMEM)):
        tree.lookup(node(ROOT), b"ct", a(tree))


def test_a_context_is_taken_once(tree: CgroupTree) -> None:
    body = wire.READ_IN.pack(77, 4096, 100, wire.READ_LOCKOWNER)
    *head, changed = tree.keep_context((wire.READ, 5, node(OWN, b"tasks"), 9, body))
    assert head == [wire.READ, 5, node(OWN, b"tasks"), 9]
    number, offset, size, _ = wire.READ_IN.unpack_from(changed)
    assert (offset, size) == (4096, 100)
    assert tree.has_context(number)
    assert tree.take_context(number) == (node(OWN, b"tasks"), 9, 77, 4096, 100)
    assert not tree.has_context(number)


def test_a_text_that_is_read_in_pieces_stays_the_same(ops: Operations, files: Files) -> None:
    text = files.views[OWN].texts["memory.stat"]
    assert _read(ops, 7, 0, 100) == text[:100]
    files.views[OWN].texts["memory.stat"] = b"other"
    assert _read(ops, 7, 100, 10_000) == text[100:]
    assert _read(ops, 7, 0, 10_000) == b"other"
    ops._cgroup.release(7)
    assert _read(ops, 7, 2, 100) == b"her"


def test_the_rest_of_a_text_is_for_readers_with_the_same_namespaces(
    ops: Operations, files: Files
) -> None:
    """A descriptor may be passed to another container: the text may have pids of the first one."""
    text = files.views[OWN].texts["memory.stat"]
    files.rights = {A_PID: b"host", B_PID: b"container"}
    assert _read(ops, 7, 0, 100, A_PID) == text[:100]
    files.views[OWN].texts["memory.stat"] = b"for B"
    assert _read(ops, 7, 1, 100, B_PID) == b"or B"
    files.views[OWN].texts["memory.stat"] = b"for A"
    assert _read(ops, 7, 1, 100, A_PID) == b"or A"


def _read(ops: Operations, handle: int, offset: int, size: int, pid: int = 1) -> bytes:
    number = _wrapped(ops._cgroup, node(OWN, b"memory.stat"), handle, offset, size, pid)
    return trio.run(ops.read, number, offset, size)


def _wrapped(
    tree: CgroupTree, node: int, handle: int, offset: int, size: int = 100, pid: int = 1
) -> int:
    body = wire.READ_IN.pack(handle, offset, size, 2)
    *_, changed = tree.keep_context((wire.READ, 1, node, pid, body))
    return int(wire.RELEASE_IN.unpack_from(changed)[0])


def test_a_writer_has_the_rights_of_the_opener_or_none(tree: CgroupTree, files: Files) -> None:
    files.rights = {A_PID: b"user", B_PID: b"user", 7: b"root"}
    name = node(OWN, b"tasks")
    context = tree.take_context(_wrapped(tree, name, 7, 0))
    with pytest.raises(Refused, match=os.strerror(errno.ESTALE)):
        tree.write(context, a(tree), b"1")
    _open(tree, A_PID, os.O_WRONLY, 7)
    tree.write(context, tree.files.caller(B_PID).with_rights(), b"12")
    with pytest.raises(Refused, match=os.strerror(errno.EACCES)):
        tree.write(context, tree.files.caller(7).with_rights(), b"13")
    assert files.views[OWN].written == [("tasks", b"12")]
    tree.release(7)
    with pytest.raises(Refused, match=os.strerror(errno.ESTALE)):
        tree.write(context, a(tree), b"1")


def _open(tree: CgroupTree, pid: int, flags: int, handle: int) -> None:
    caller = tree.files.caller(pid).with_rights()
    tree.keep_open(handle, tree.open(node(OWN, b"tasks"), caller, flags))


def test_files_open_for_writing_are_bounded_for_each_container(tree: CgroupTree) -> None:
    handles = [5 << 22 | serial for serial in range(4096)]
    for handle in handles:
        _open(tree, A_PID, os.O_RDWR, handle)
    with pytest.raises(Refused, match=os.strerror(errno.ENFILE)):
        # Also with the handles of another of its pid namespaces.
        _open(tree, A_PID, os.O_WRONLY, 7 << 22)
    _open(tree, B_PID, os.O_WRONLY, 6 << 22)
    tree.release(handles[0])
    _open(tree, A_PID, os.O_WRONLY, 7 << 22)


def test_a_handle_that_is_open_is_not_given_again(world: World, tree: CgroupTree) -> None:
    mount = world.caller_mount
    first = mount.cgroup_handle(tree, A_PID)
    _open(tree, A_PID, os.O_WRONLY, first + 1)
    assert mount.cgroup_handle(tree, A_PID) == first + 2
    tree.release(first + 1)
    assert not tree.is_open(first + 1)


@pytest.fixture
def ops(world: World, tree: CgroupTree) -> Operations:
    world.caller_mount.cgroup = tree
    return Operations(world.caller_mount, world.guard)


def test_requests_come_through_pyfuse3(ops: Operations, files: Files, world: World) -> None:
    context: Any = SimpleNamespace(pid=A_PID)
    entry = trio.run(ops.lookup, node(OWN), b"tasks", context)
    assert (entry.st_ino, entry.st_uid, entry.st_gid) == (node(OWN, b"tasks"), 5, 6)
    assert entry.attr_timeout == entry.entry_timeout == 0
    assert trio.run(ops.mkdir, node(OWN), b"x", 0o700, context).st_ino == node(77)
    trio.run(ops.rmdir, node(OWN), b"x", context)
    opened = trio.run(ops.open, node(OWN, b"tasks"), os.O_WRONLY, context)
    tree = world.caller_mount.cgroup
    assert tree is not None
    number = _wrapped(tree, node(OWN, b"tasks"), opened.fh, 0)
    assert trio.run(ops.write, number, 0, b"42") == 2
    assert files.views[OWN].done == [("mkdir", "x", 0o700), ("rmdir", "x")]
    assert files.views[OWN].written == [("tasks", b"42")]


def test_modes_owners_and_o_trunc(ops: Operations, files: Files) -> None:
    files.views[60] = View(texts={"tasks": b""})
    context: Any = SimpleNamespace(pid=A_PID)
    attributes: Any = SimpleNamespace(st_mode=0o100600, st_uid=3, st_gid=4)

    def change(**fields: bool) -> None:
        names = ("update_mode", "update_uid", "update_gid", "update_size")
        wanted: Any = SimpleNamespace(**dict.fromkeys(names, False) | fields)
        trio.run(ops.setattr, node(60, b"tasks"), attributes, wanted, None, context)

    change(update_mode=True)
    change(update_uid=True)
    change(update_gid=True, update_uid=True)
    change(update_size=True)
    assert files.views[60].done == [
        ("chmod", "tasks", 0o600), ("chown", "tasks", 3, -1), ("chown", "tasks", 3, 4),
    ]  # fmt: skip
    with pytest.raises(pyfuse3.FUSEError) as caught:
        change()
    assert caught.value.errno == errno.EPERM


def test_nothing_is_kept_for_an_operation_that_outlives_its_timeout(
    world: World, tree: CgroupTree, files: Files
) -> None:
    """The kernel sends no RELEASE for an open that has failed, nor a second one after a read."""
    world.caller_mount.cgroup = tree
    ops = Operations(world.caller_mount, world.guard, timeout_s=60)
    context: Any = SimpleNamespace(pid=A_PID)
    go_on = threading.Event()
    begun = threading.Semaphore(0)

    def check_open(name: str, *, write: bool) -> None:
        begun.release()
        go_on.wait()

    def read(name: str) -> bytes:
        begun.release()
        go_on.wait()
        return b"x" * 100_000

    files.views[OWN].check_open = check_open  # type: ignore[method-assign]
    files.views[OWN].read = read  # type: ignore[method-assign]

    clock = MockClock()

    async def pass_time() -> None:
        while not begun.acquire(blocking=False):
            await trio.sleep(0)
        clock.jump(61)

    async def abandon() -> None:
        number = _wrapped(tree, node(OWN, b"tasks"), 7, 0)
        for work in (
            lambda: ops.open(node(OWN, b"tasks"), os.O_WRONLY, context),
            lambda: ops.open(node(OWN, b"tasks"), os.O_WRONLY, context),
            lambda: ops.read(number, 0, 100),
        ):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pass_time)
                with pytest.raises(pyfuse3.FUSEError, match=os.strerror(errno.ETIMEDOUT)):
                    await work()
        tree.release(7)
        assert running() == 3
        go_on.set()
        while running():
            await trio.sleep(0)

    def running() -> float:
        return sum(limiter.borrowed_tokens for limiter in ops._limiters.values())

    trio.run(abandon, clock=clock)
    assert not tree._counts
    assert not tree._writers
    assert not tree._texts


def test_with_too_many_threads_in_all_a_name_stays(
    ops: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a lookup any error but ENOMEM would drop the name for all callers."""
    monkeypatch.setattr(operations, "_MOST_THREADS", 0)
    context: Any = SimpleNamespace(pid=A_PID)
    for method, number in ((ops.lookup, errno.ENOMEM), (ops.rmdir, errno.EAGAIN)):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            trio.run(method, node(OWN), b"tasks", context)
        assert caught.value.errno == number


def test_a_request_for_which_no_thread_starts_is_refused(
    ops: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At pids.max or RLIMIT_NPROC; pyfuse3 ends its loop on any exception but FUSEError."""

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("trio._core._thread_cache.THREAD_CACHE._idle_workers", {})
    monkeypatch.setattr(threading.Thread, "start", fail)
    context: Any = SimpleNamespace(pid=A_PID)
    for method, number in ((ops.lookup, errno.ENOMEM), (ops.rmdir, errno.EAGAIN)):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            trio.run(method, node(OWN), b"tasks", context)
        assert caught.value.errno == number
    assert not any(limiter.borrowed_tokens for limiter in ops._limiters.values())


def test_what_begins_after_etimedout_does_nothing(
    world: World, tree: CgroupTree, files: Files
) -> None:
    """The caller no longer waits, so it may have other rights by then."""
    world.caller_mount.cgroup = tree
    ops = Operations(world.caller_mount, world.guard, timeout_s=60)
    context: Any = SimpleNamespace(pid=A_PID)
    go_on, ended = threading.Event(), threading.Event()

    class Slow(Caller):
        def with_rights(self) -> Caller:
            go_on.wait()
            return super().with_rights()

    class Noting(operations.Guard):
        def call(self, *args: Any) -> Any:
            try:
                return super().call(*args)
            finally:
                ended.set()

    ops._guard = Noting()
    files.caller = lambda pid: Slow(pid, A_KEY, files)  # type: ignore[method-assign]

    async def abandon() -> None:
        with pytest.raises(pyfuse3.FUSEError, match=os.strerror(errno.ETIMEDOUT)):
            await ops.mkdir(node(OWN), b"x", 0o700, context)

    trio.run(abandon, clock=MockClock(autojump_threshold=0))
    go_on.set()
    assert ended.wait(60)
    assert files.views[OWN].done == []


def test_a_request_that_pyfuse3_does_not_take_leaves_no_context(
    world: World, tree: CgroupTree
) -> None:
    def refuse(request: object, key: object) -> None:
        raise Refused(errno.EAGAIN)

    mount = world.caller_mount
    mount.cgroup, mount.send = tree, refuse
    with pytest.raises(Refused, match=os.strerror(errno.EAGAIN)):
        mount.other((wire.READ, 1, node(OWN), A_PID, wire.READ_IN.pack(7, 0, 100, 0)))
    assert not tree._contexts


def test_an_error_of_cgroupfs_and_a_bug(ops: Operations, files: Files) -> None:
    context: Any = SimpleNamespace(pid=B_PID)
    for raised, number in ((OSError(errno.EBUSY, "busy"), errno.EBUSY), (KeyError(), errno.EIO)):

        def fail(name: str, raised: Exception = raised) -> None:
            raise raised

        files.views[OWN].rmdir = fail  # type: ignore[method-assign]
        with pytest.raises(pyfuse3.FUSEError) as caught:
            trio.run(ops.rmdir, node(OWN), b"x", context)
        assert caught.value.errno == number


def test_requests_are_counted_by_what_limits_go_by(world: World, tree: CgroupTree) -> None:
    keys: list[object] = []
    mount = world.caller_mount
    mount.cgroup, mount.send = tree, lambda request, key: keys.append(key)
    body = wire.READ_IN.pack(7, 0, 100, 0)
    for opcode in (wire.LOOKUP, wire.READ):
        mount.other((opcode, 1, node(OWN), A_PID, body))
    assert keys == [A_KEY, A_KEY]
    for opcode, number in ((wire.LOOKUP, errno.ENOMEM), (wire.READ, errno.ESRCH)):
        with pytest.raises(Refused, match=os.strerror(number)):
            mount.other((opcode, 1, node(OWN), GONE_PID, body))


def test_a_handle_is_released_also_where_pyfuse3_does_not_keep_up(
    world: World, tree: CgroupTree
) -> None:
    """The kernel sends a RELEASE once, and of a process that has ended."""

    def refuse(request: object, key: object = None) -> None:
        raise Refused(errno.EAGAIN)

    mount = world.caller_mount
    mount.cgroup, mount.send = tree, refuse
    tree.keep_open(7, Opened(A_KEY, b"rights"))
    body = wire.RELEASE_IN.pack(7).ljust(24, b"\0")
    for opcode in (wire.RELEASEDIR, wire.RELEASE):
        assert tree.is_open(7)
        assert mount.handlers[opcode](node(OWN), GONE_PID, body) == b""
    assert not tree.is_open(7)
    assert not tree._counts


def test_a_write_of_more_than_a_page_goes_no_further(world: World, tree: CgroupTree) -> None:
    mount = world.caller_mount
    mount.cgroup = tree
    name = node(OWN, b"tasks")
    assert mount.handlers[wire.WRITE](name, A_PID, wire.WRITE_IN.pack(7, 0, 4096)) is None
    with pytest.raises(Refused, match=os.strerror(errno.E2BIG)):
        mount.handlers[wire.WRITE](name, A_PID, wire.WRITE_IN.pack(7, 0, 4097))


def test_a_listing_reads_attributes_of_what_fits_into_an_answer(
    ops: Operations, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[bytes] = []

    def reply(token: object, name: bytes, entry: object, position: int) -> bool:
        listed.append(name)
        return len(listed) < 5

    monkeypatch.setattr(pyfuse3, "readdir_reply", reply)
    files.views[OWN] = View(children={f"c{number}": 100 + number for number in range(50)})
    number = _wrapped(ops._cgroup, node(OWN), 0, 103, size=800)
    token: Any = None
    trio.run(ops.readdir, number, 103, token)
    assert listed == [b"c4", b"c5", b"c6", b"c7", b"c8"]
    assert files.views[OWN].listed == ["c4", "c5", "c6", "c7", "c8", "c9"]


def test_the_loop_passes_on_what_is_below_cgroup(world: World, tree: CgroupTree) -> None:
    mount = world.caller_mount
    mount.cgroup = tree
    for opcode in (wire.GETATTR, wire.OPEN, wire.READ, wire.WRITE):
        body = wire.READ_IN.pack(7, 0, 100, wire.READ_LOCKOWNER).ljust(64, b"\0")
        assert mount.handlers[opcode](node(OWN), A_PID, body) is None
        mount.other((opcode, 1, node(OWN), A_PID, body))
    assert [request[0] for request in world.sent] == [
        wire.GETATTR, wire.OPEN, wire.READ, wire.WRITE,
    ]  # fmt: skip
    with pytest.raises(Refused, match=os.strerror(errno.EINVAL)):
        mount.handlers[wire.READ](node(OWN), A_PID, wire.READ_IN.pack(7, 0, 100, 0))
    with pytest.raises(Refused, match=os.strerror(errno.EIO)):
        mount.fallback((wire.GETATTR, 1, node(OWN), A_PID, b""))
    mount.cgroup = None
    with pytest.raises(Refused, match=os.strerror(errno.ESTALE)):
        mount.other((wire.LOOKUP, 1, node(OWN), A_PID, b"x\0"))
