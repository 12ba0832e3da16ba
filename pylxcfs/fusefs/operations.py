"""What goes through pyfuse3: listing directories and the rare requests.

Each method translates one request into a call of filesystem.py under the guard; pyfuse3 sees no
exception but FUSEError. The hot requests never arrive here (express.py).
"""

from __future__ import annotations

import errno
import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

import pyfuse3

from pylxcfs.fusefs.filesystem import NAME_VALID_NS, Filesystem
from pylxcfs.fusefs.guard import Guard
from pylxcfs.fusefs.refusal import Refused
from pylxcfs.fusefs.systree import Entry

T = TypeVar("T")

_NS = 1_000_000_000

#: Listings that are kept. Who has more directories open has the oldest listed again.
_MOST_LISTINGS = 256


class Operations(pyfuse3.Operations):
    """pyfuse3's view of the filesystem."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, filesystem: Filesystem, guard: Guard) -> None:
        super().__init__()
        self._fs = filesystem
        self._guard = guard
        #: Open directories: node and who opened it.
        self._directories: dict[int, tuple[int, int]] = {}
        self._listings: OrderedDict[int, list[Entry]] = OrderedDict()
        self._serial = itertools.count(1)

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

    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        """List once: a directory that changes while it is read shows one moment."""
        handle = next(self._serial)
        self._directories[handle] = inode, ctx.pid
        try:
            self._list(handle)
        except pyfuse3.FUSEError:
            del self._directories[handle]
            raise
        return handle

    def _list(self, handle: int) -> list[Entry]:
        node, pid = self._directories[handle]
        entries = self._guarded("opendir", lambda: self._fs.names.entries(node, pid))
        self._listings[handle] = entries
        if len(self._listings) > _MOST_LISTINGS:
            self._listings.popitem(last=False)
        return entries

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Hand out the listing from `start_id` on."""
        if fh not in self._directories:
            # Opened while another server served; its listing died with it.
            raise pyfuse3.FUSEError(errno.ESTALE)
        entries = self._listings.get(fh) or self._list(fh)
        _, pid = self._directories[fh]
        for position, entry in enumerate(entries[start_id:], start_id + 1):
            try:
                attributes = self._attributes(entry.number, pid)
            except pyfuse3.FUSEError:
                continue  # went away since it was listed
            if not pyfuse3.readdir_reply(token, entry.name, attributes, position):
                return

    async def releasedir(self, fh: int) -> None:
        """Forget a listing."""
        self._listings.pop(fh, None)
        self._directories.pop(fh, None)

    def stacktrace(self) -> None:
        """Nothing: pyfuse3 would fill the log for whoever sets an attribute of the root."""

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """Answer like procfs: no blocks. Podman refuses to bind what has no statfs(2)."""
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_namemax = 255
        return data

    async def forget(self, inode_list: object) -> None:
        """Nothing: node ids need no table."""

    def _attributes(self, node: int, pid: int) -> pyfuse3.EntryAttributes:
        found = self._guarded("readdir", lambda: self._fs.attributes(node, 0, pid))
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = node
        entry.st_mode = found.mode
        entry.st_nlink = found.nlink
        entry.st_size = found.size
        entry.st_mtime_ns = entry.st_atime_ns = entry.st_ctime_ns = found.mtime_ns
        entry.attr_timeout = found.valid_ns / _NS
        entry.entry_timeout = NAME_VALID_NS / _NS
        return entry
