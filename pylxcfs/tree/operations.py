"""What goes through pyfuse3 on the caller mount: names, directories and the rare requests.

Each method translates one request into a call of caller.py under the guard; pyfuse3 sees no
exception but FUSEError. What changes something is refused with EPERM.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import NoReturn, TypeVar

import pyfuse3

from pylxcfs.errors import Refused
from pylxcfs.fuse.wire import BLOCK_SIZE, Attributes
from pylxcfs.guard import Guard
from pylxcfs.tree.caller import CallerMount
from pylxcfs.tree.nodes import FILES, SYSFS
from pylxcfs.units import NS_PER_S

T = TypeVar("T")


class Operations(pyfuse3.Operations):
    """The caller mount as pyfuse3 wants it."""

    supports_dot_lookup = False

    def __init__(self, mount: CallerMount, guard: Guard) -> None:
        super().__init__()
        self._mount = mount
        self._guard = guard

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

    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Return the attributes of a name."""
        node = self._guarded("lookup", lambda: self._mount.lookup(parent_inode, name))
        return self._entry(node, self._guarded("lookup", lambda: self._mount.listed(node)))

    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        """Return the target of a link of sysfs."""
        return self._guarded("readlink", lambda: self._mount.names.target(inode))

    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        """Return a handle that any server understands."""
        return self._guarded("opendir", lambda: self._mount.open_directory(inode, ctx.pid))

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """List the directory from `start_id` on."""
        entries = self._guarded("readdir", lambda: self._mount.entries(fh))
        for position, entry in enumerate(entries[start_id:], start_id + 1):
            try:
                found = self._guarded("readdir", lambda: self._mount.listed(entry.number))  # noqa: B023
            except pyfuse3.FUSEError:
                continue  # it went away since it was listed
            attributes = self._entry(entry.number, found)
            if not pyfuse3.readdir_reply(token, entry.name, attributes, position):
                return

    async def releasedir(self, fh: int) -> None:
        """Forget a handle."""
        self._mount.close_directory(fh)

    async def setattr(
        self,
        inode: int,
        attr: object,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """Let O_TRUNC pass on files of proc: without effect, as on the kernel's."""
        if not (fields.update_size and FILES <= inode < SYSFS):
            raise pyfuse3.FUSEError(errno.EPERM)
        found = self._guarded("setattr", lambda: self._mount.attributes(inode, ctx.pid))
        return self._entry(inode, found)

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """Answer like procfs: no blocks. Podman refuses to bind what has no statfs(2)."""
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_namemax = 255
        return data

    async def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise pyfuse3.FUSEError(errno.EPERM)

    mkdir = mknod = create = symlink = link = unlink = rmdir = rename = _refuse
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
