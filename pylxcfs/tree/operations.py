"""What goes through pyfuse3 on the caller mount: names, directories and the rare requests.

Each method translates one request into a call of caller.py under the guard; pyfuse3 sees no
exception but FUSEError. What changes something is refused with EPERM, but below cgroup/.

Below cgroup/ every request comes here, and may block: it is answered in a thread, of which each
container, and each user of the host, has a few, and after --request-timeout with ETIMEDOUT.
"""

from __future__ import annotations

import errno
import itertools
import math
import stat
from collections.abc import Callable, Hashable
from typing import Final, NoReturn, TypeVar

import pyfuse3
import trio

from pylxcfs.errors import Refused
from pylxcfs.fuse import wire
from pylxcfs.fuse.wire import BLOCK_SIZE, Attributes
from pylxcfs.guard import Guard
from pylxcfs.tree import nodes
from pylxcfs.tree.caller import CallerMount
from pylxcfs.tree.cgroup import CgroupTree, Found
from pylxcfs.tree.nodes import FILES, SYSFS
from pylxcfs.tree.ports import CgroupCaller
from pylxcfs.units import NS_PER_S

T = TypeVar("T")

#: Threads that one container or user of the host may use; more of its requests wait for them, as
#: many as fuse/session.py passes on. And threads of all: a request beyond them is told EAGAIN.
_THREADS: Final = 4
_MOST_THREADS: Final = 256

#: Requests that do nothing with the caller's rights: the kernel has compared those.
_LOOKS: Final = frozenset({"lookup", "getattr", "readdir"})

#: What an entry of a listing takes at least.
_LEAST_ENTRY: Final = wire.ENTRY_OUT.size + wire.ATTR.size + wire.DIRENT.size

#: st_size of files below cgroup/, as sysfs has it.
_CGROUP_FILE_SIZE: Final = 4096


class Operations(pyfuse3.Operations):
    """The caller mount as pyfuse3 wants it."""

    supports_dot_lookup = False

    def __init__(self, mount: CallerMount, guard: Guard, timeout_s: float = 0) -> None:
        super().__init__()
        self._mount = mount
        self._guard = guard
        self._timeout_s = timeout_s or math.inf
        #: By CgroupCaller.key.
        self._limiters: dict[Hashable, trio.CapacityLimiter] = {}

    def _guarded(self, place: str, attempt: Callable[[], T]) -> T:
        """Run `attempt`; Refused becomes its errno, any other failure EIO."""

        def answer() -> tuple[T | None, int]:
            try:
                return attempt(), 0
            except Refused as refused:
                return None, refused.errno

        result, number = self._guard.call(place, answer, lambda: (None, errno.EIO))
        if number:
            raise pyfuse3.FUSEError(number)
        return result  # type: ignore[return-value]

    async def _in_thread(self, place: str, pid: int, work: Callable[[CgroupCaller], T]) -> T:
        """Run what may block; Refused and OSError become their errno, another failure EIO.

        After ETIMEDOUT the caller no longer waits. Its pid may become another's, so it is opened
        before, and it may become a program with more rights, so nothing begins after that.
        """
        try:
            caller = self._cgroup.files.caller(pid)
        except OSError as error:
            raise pyfuse3.FUSEError(errno.ESRCH) from error

        is_late = False

        def answer() -> tuple[T | None, int]:
            try:
                asking = caller if place in _LOOKS else caller.with_rights()
                return (None, errno.ETIMEDOUT) if is_late else (work(asking), 0)
            except Refused as refused:
                return None, refused.errno
            except OSError as error:
                return None, error.errno or errno.EIO

        def guarded() -> tuple[T | None, int]:
            return self._guard.call(place, answer, lambda: (None, errno.EIO))

        limiter = self._limiter(caller.key)
        result, number = None, errno.ETIMEDOUT
        with trio.move_on_after(self._timeout_s) as scope:
            try:
                result, number = await trio.to_thread.run_sync(
                    guarded, limiter=limiter, abandon_on_cancel=True
                )
            except RuntimeError as error:  # of threading: the limit on tasks is reached
                self._guard.warn("thread", "a request on a cgroup has no thread: %s", error)
                number = errno.EAGAIN
        is_late = scope.cancelled_caught
        if number:
            raise pyfuse3.FUSEError(number)
        return result  # type: ignore[return-value]

    def _limiter(self, key: Hashable) -> trio.CapacityLimiter:
        """Return the limiter of a caller's threads; forget those that nothing uses."""
        for other, limiter in list(self._limiters.items()):
            if not limiter.borrowed_tokens and not limiter.statistics().tasks_waiting:
                del self._limiters[other]
        if sum(limiter.borrowed_tokens for limiter in self._limiters.values()) >= _MOST_THREADS:
            raise pyfuse3.FUSEError(errno.EAGAIN)
        return self._limiters.setdefault(key, trio.CapacityLimiter(_THREADS))

    @property
    def _cgroup(self) -> CgroupTree:
        """The tree of cgroup/; only for nodes that are below it."""
        if self._mount.cgroup is None:
            raise pyfuse3.FUSEError(errno.ESTALE)
        return self._mount.cgroup

    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Return the attributes of a name."""
        if nodes.is_cgroup(parent_inode):
            return _cgroup_entry(await self._lookup_cgroup(parent_inode, name, ctx.pid))
        node = self._guarded("lookup", lambda: self._mount.lookup(parent_inode, name))
        return self._entry(node, self._guarded("lookup", lambda: self._mount.listed(node)))

    async def _lookup_cgroup(self, parent_inode: int, name: bytes, pid: int) -> Found:
        tree = self._cgroup
        try:
            return await self._in_thread(
                "lookup", pid, lambda caller: tree.lookup(parent_inode, name, caller)
            )
        except pyfuse3.FUSEError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                raise
            # Also EAGAIN and ETIMEDOUT of one caller would drop the name for all.
            raise pyfuse3.FUSEError(errno.ENOMEM) from error

    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """Return the attributes of a node below cgroup/."""
        tree = self._cgroup
        found = await self._in_thread(
            "getattr", ctx.pid, lambda caller: tree.attributes(inode, caller)
        )
        return _cgroup_entry(Found(inode, found))

    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        """Return the target of a link of sysfs."""
        return self._guarded("readlink", lambda: self._mount.names.target(inode))

    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        """Return a handle that any server understands."""
        if nodes.is_cgroup(inode):
            return 0  # each part of a listing is a list of its own
        return self._guarded("opendir", lambda: self._mount.open_directory(inode, ctx.pid))

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """List the directory from `start_id` on."""
        if self._mount.cgroup is not None and self._mount.cgroup.has_context(fh):
            await self._list_cgroup(self._mount.cgroup, fh, token)
            return
        entries = self._guarded("readdir", lambda: self._mount.entries(fh))
        for position, entry in enumerate(entries[start_id:], start_id + 1):
            try:
                found = self._guarded("readdir", lambda: self._mount.listed(entry.number))  # noqa: B023
            except pyfuse3.FUSEError:
                continue  # it went away since it was listed
            attributes = self._entry(entry.number, found)
            if not pyfuse3.readdir_reply(token, entry.name, attributes, position):
                return

    async def _list_cgroup(self, tree: CgroupTree, fh: int, token: pyfuse3.ReaddirToken) -> None:
        node, pid, _, offset, size = tree.take_context(fh)
        most = size // _LEAST_ENTRY + 1
        entries = await self._in_thread(
            "readdir",
            pid,
            lambda caller: list(itertools.islice(tree.entries(node, caller, offset), most)),
        )
        for position, name, found in entries:
            if not pyfuse3.readdir_reply(token, name, _cgroup_entry(found), position):
                return

    async def releasedir(self, fh: int) -> None:
        """Forget a handle of a directory that is not below cgroup/."""
        self._mount.close_directory(fh)

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """Open a file below cgroup/."""
        tree = self._cgroup
        opened = await self._in_thread(
            "open", ctx.pid, lambda caller: tree.open(inode, caller, flags)
        )

        def keep() -> int:
            handle = self._mount.cgroup_handle(tree, ctx.pid)
            tree.keep_open(handle, opened)
            return handle

        return pyfuse3.FileInfo(fh=self._guarded("open", keep), direct_io=True)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        """Read from a file below cgroup/."""
        tree = self._cgroup
        context = tree.take_context(fh)
        found = await self._in_thread(
            "read", context.pid, lambda caller: tree.read(context, caller)
        )
        tree.keep_text(context, found)
        return found.text[off : off + size]

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """Write to a file below cgroup/."""
        tree, data = self._cgroup, bytes(buf)
        context = tree.take_context(fh)
        await self._in_thread(
            "write", context.pid, lambda caller: tree.write(context, caller, data)
        )
        return len(data)

    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Make a cgroup."""
        if not nodes.is_cgroup(parent_inode):
            raise pyfuse3.FUSEError(errno.EPERM)
        tree = self._cgroup
        return _cgroup_entry(
            await self._in_thread(
                "mkdir", ctx.pid, lambda caller: tree.mkdir(parent_inode, name, caller, mode)
            )
        )

    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """Remove a cgroup."""
        if not nodes.is_cgroup(parent_inode):
            raise pyfuse3.FUSEError(errno.EPERM)
        tree = self._cgroup
        await self._in_thread(
            "rmdir", ctx.pid, lambda caller: tree.rmdir(parent_inode, name, caller)
        )

    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """Let O_TRUNC pass on files of proc: without effect, as on the kernel's.

        Below cgroup/ the caller may change modes and owners.
        """
        if nodes.is_cgroup(inode):
            await self._set_cgroup_attributes(inode, attr, fields, ctx.pid)
            return await self.getattr(inode, ctx)
        if not (fields.update_size and FILES <= inode < SYSFS):
            raise pyfuse3.FUSEError(errno.EPERM)
        found = self._guarded("setattr", lambda: self._mount.attributes(inode, ctx.pid))
        return self._entry(inode, found)

    async def _set_cgroup_attributes(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        pid: int,
    ) -> None:
        tree = self._cgroup
        if fields.update_mode:
            mode = attr.st_mode
            await self._in_thread("chmod", pid, lambda caller: tree.chmod(inode, caller, mode))
        if fields.update_uid or fields.update_gid:
            uid = attr.st_uid if fields.update_uid else -1
            gid = attr.st_gid if fields.update_gid else -1
            await self._in_thread("chown", pid, lambda caller: tree.chown(inode, caller, uid, gid))
        elif not (fields.update_mode or fields.update_size):
            raise pyfuse3.FUSEError(errno.EPERM)  # times

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """Answer like procfs: no blocks. Podman refuses to bind what has no statfs(2)."""
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_namemax = 255
        return data

    async def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise pyfuse3.FUSEError(errno.EPERM)

    mknod = create = symlink = link = unlink = rename = _refuse
    setxattr = removexattr = _refuse

    def stacktrace(self) -> None:
        """Log nothing when a process sets an attribute of the root."""

    def _entry(self, node: int, found: Attributes) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = node
        entry.st_mode = found.mode
        entry.st_nlink = found.nlink
        entry.st_size = found.size
        entry.st_mtime_ns = entry.st_atime_ns = entry.st_ctime_ns = found.mtime_ns
        entry.st_blksize = BLOCK_SIZE
        entry.attr_timeout = found.valid_ns / NS_PER_S
        entry.entry_timeout = self._mount.names.valid_ns(node) / NS_PER_S
        return entry


def _cgroup_entry(found: Found) -> pyfuse3.EntryAttributes:
    """Return an entry with cgroupfs's attributes, which the kernel asks for each time.

    One link: of any other number find(1) concludes how many directories there are. And a size that
    is not 0: sendfile(2) would return 0, and not the error after which programs call read(2).
    """
    node, attributes = found
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = node
    entry.st_mode = attributes.st_mode
    entry.st_nlink = 1
    entry.st_size = 0 if stat.S_ISDIR(attributes.st_mode) else _CGROUP_FILE_SIZE
    entry.st_uid = attributes.st_uid
    entry.st_gid = attributes.st_gid
    entry.st_mtime_ns = entry.st_atime_ns = entry.st_ctime_ns = attributes.st_mtime_ns
    entry.st_blksize = BLOCK_SIZE
    entry.attr_timeout = entry.entry_timeout = 0
    return entry
