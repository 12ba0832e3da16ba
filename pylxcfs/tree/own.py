"""The own mount: each container's files as pages of the kernel's page cache, without OPEN.

OPEN is answered ENOSYS, so the kernel opens, reads and closes from its page cache alone. It asks
GETATTR once the text it was told of has expired, and READ for a page that it does not have. The
mount is read-only and has default_permissions: open(2) asks for expired attributes, too, which
gives a one-shot sendfile(2) or mmap(2) a fresh page; and what would change something is refused by
the kernel itself. OPENDIR is never ENOSYS: one caller's listing would be cached for all.

What makes a read right:
- While readers come, a size only grows, and never together with the text (`_replace`). READ answers
  that fill a page are filled with newlines to the size asked for, so no page ends in zeros.
- A reader in the middle of a text gets the rest of it (`_revalidate`).
- Generations of inodes are a MAC over the epoch of the container. A pid namespace's number comes
  back with the next container; LOOKUP then names the same node with another generation, and the
  kernel drops the old inode with its pages. Until then the old inode shows the host (`_container`).
- LOOKUP renders nothing: it comes from the runtime, before the container has its limits. So may
  GETATTR of stat(2): until one of read(2) or open(2), texts have no life, and change with their
  sizes. From then on there may be readers that have been told a size.

Knows messages (fuse/wire.py), nodes and names; does not know pyfuse3, handles or processes.
"""

from __future__ import annotations

import errno
import stat
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from pylxcfs.errors import Refused, SourceError
from pylxcfs.fuse import wire
from pylxcfs.fuse.connection import Handler, Request, is_disowned
from pylxcfs.fuse.store import Store
from pylxcfs.fuse.wire import Attributes
from pylxcfs.tree import nodes
from pylxcfs.tree.callers import Callers, packed
from pylxcfs.tree.contents import Contents
from pylxcfs.tree.names import DIRECTORY, Names
from pylxcfs.tree.nodes import FILES, SYSFS, inode_number
from pylxcfs.tree.ports import Known
from pylxcfs.tree.sysfs import Entry
from pylxcfs.views.model import Container

_MS: Final = 1_000_000

#: How long the old text is shown with the size of a longer one.
STEP_NS: Final = 100 * _MS
#: How long a text stays for a reader in the middle of it, and how many times.
_HOLD_NS: Final = 10 * _MS
_MOST_HOLDS: Final = 100
#: A thread that cannot be examined gets an older text only if that expired so long ago.
_BUSY_NS: Final = 100 * _MS
#: The count of a text that this server has from the one before and was not asked for yet.
_INHERITED: Final = -1
#: Without a reader for so long, size and text may change together.
_IDLE_NS: Final = 1000 * _MS
#: A size that grows does so by this part of the text more than it must: each growth is a risk for
#: a reader between two read(2) calls.
_ROOM_PART: Final = 16
#: A rendering that no read has taken yet is good for the read of the process that has just opened.
_UNREAD_NS: Final = 10 * _MS
#: All texts are looked through so often, so many at each rendering.
_SWEEP_NS: Final = 5000 * _MS
_SWEPT_AT_ONCE: Final = 16
#: st_size of a file that was never read, until the first GETATTR.
_UNKNOWN_SIZE: Final = 4096

_HOST_NAME: Final = b"host"


@dataclass(slots=True)
class Page:
    """What the kernel is told of a file: one text."""

    data: bytes
    #: In nanoseconds; differs from that of the page before.
    mtime: int
    #: Monotonic nanoseconds: rendered, last asked for, and until when it is shown.
    born: int
    asked: int
    expires: int
    #: How many times it has stayed for a reader in the middle. Not a time: the server may have
    #: been stopped for longer than a text may ever stay.
    held: int = 0
    #: The text that comes after this one, whose size was told ahead of it.
    next: bytes | None = None
    unread: bool = True
    #: This server has given the kernel this text for the mtime that it was told.
    filled: bool = False
    #: A reader has been told of this text, or of one before it.
    taken: bool = False
    #: `asked` when all texts were looked through last.
    seen: int = 0


@dataclass(eq=False)
class OwnMount:
    """The requests of the own mount (fuse/connection.py calls the handlers, in one thread)."""

    names: Names
    contents: Contents
    callers: Callers
    store: Store
    ttl_ns: int
    #: Path of the other mount.
    caller_mount: str
    #: Whether pressure triggers are on: they need a handle, and so the other mount.
    triggers: bool
    clock: Callable[[], int] = time.monotonic_ns

    def __post_init__(self) -> None:
        self._started_ns = time.time_ns()
        #: Nodes by pid namespace that were looked up since it got another epoch. The kernel may
        #: have others from before, of descriptors that outlived their container.
        self._looked_up: dict[int, set[int]] = {}
        #: The container that the texts of a pid namespace were rendered for.
        self._rendered_for: dict[int, weakref.ref[Known]] = {}
        self._to_sweep: list[int] = []
        self._next_sweep = 0
        now = self.clock()
        # What the kernel was told by a server before this one; it has to be asked for again.
        self._pages = {
            node: Page(text, mtime, now, now, now, _INHERITED, unread=False, taken=True)
            for node, mtime, text in self.store.load()
        }
        self.handlers: dict[int, Handler] = {
            wire.GETATTR: self._getattr,
            wire.READ: self._read,
            wire.LOOKUP: self._lookup,
            wire.READLINK: self._readlink,
            wire.OPENDIR: self._opendir,
            wire.READDIR: self._readdir,
            wire.RELEASEDIR: lambda node, pid, body: b"",
            wire.STATFS: lambda node, pid, body: wire.STATFS_OUT,
        }

    # -- what the loop and the server ask ------------------------------------------------------

    def other(self, request: Request) -> bytes:
        """Refuse OPEN, FLUSH, POLL, xattrs and so on: not implemented, never asked again."""
        raise Refused(errno.ENOSYS)

    def fallback(self, request: Request) -> bytes:
        """Show the host's file where a request failed."""
        opcode, _, node, _, body = request
        index = nodes.index_of(node)
        if opcode not in (wire.GETATTR, wire.READ) or index < FILES:
            raise Refused(errno.EIO)
        now = self.clock()
        try:
            page = self._replace(node, self.contents.render(index, None), 0, now)
        except SourceError:
            self._forget(node)
            if opcode == wire.READ:
                raise
            return self._told(node, None, now)  # it exists, and READ gets the error
        if opcode == wire.GETATTR:
            return self._told(node, page, now)
        page.unread, page.taken = False, True
        return self._part(page, body)

    def key(self, opcode: int, node: int, pid: int, word: int) -> int:
        """Return the pid namespace of the node's owner, else that of the caller."""
        owner = nodes.pair_of(node)
        return nodes.unpack(owner).pidns if owner else self.callers.containers.namespace(pid)

    def shown(self, index: int) -> Iterator[tuple[nodes.Owner, int, bytes]]:
        """Yield owner, epoch and text of the nodes with this index, as the kernel has them."""
        for node, page in self._pages.items():
            owner = nodes.pair_of(node)
            if nodes.index_of(node) == index and owner != self.callers.host:
                yield nodes.unpack(owner), self._epoch(owner), page.data

    def changed(self) -> None:
        """Render again once texts expire: the policy has changed."""
        for page in list(self._pages.values()):
            page.next = None

    def _sweep_some(self, now: int) -> None:
        """Forget texts that nobody has asked for lately: a few at each rendering."""
        if not self._to_sweep and now >= self._next_sweep:
            # Those not asked for since the last time: the server may have been stopped just now.
            self._to_sweep = [node for node, one in self._pages.items() if one.seen == one.asked]
            for one in self._pages.values():
                one.seen = one.asked
            self._next_sweep = now + _SWEEP_NS
        for node in self._to_sweep[-_SWEPT_AT_ONCE:]:
            page = self._pages.get(node)
            if page is not None and now - max(page.asked, page.expires) > 2 * _IDLE_NS:
                self._forget(node)
        del self._to_sweep[-_SWEPT_AT_ONCE:]

    # -- attributes and texts ------------------------------------------------------------------

    def _getattr(self, node: int, pid: int, body: bytes) -> bytes:
        page = self._pages.get(node)
        now = self.clock()
        if page is None or now >= page.expires:
            if not stat.S_ISREG(self.names.mode(nodes.index_of(node))):
                return self._told(node, None, now)
            reads = bool(wire.GETATTR_IN.unpack_from(body)[0] & wire.GETATTR_FH)
            page = self._revalidate(node, pid, page, now, reads)
            page.taken = page.taken or reads or self.callers.containers.opens(pid)
        page.asked = now
        return self._told(node, page, now)

    def _told(self, node: int, page: Page | None, now: int) -> bytes:
        return wire.attr_out(inode_number(node), self._attributes(node, page, now))

    def _attributes(self, node: int, page: Page | None, now: int) -> Attributes:
        """Return attributes; a file without a text has a size that no reader takes for its end."""
        index = nodes.index_of(node)
        mode = self.names.mode(index)
        if not stat.S_ISREG(mode):
            return Attributes(mode, 0, self._started_ns, self.names.valid_ns(index))
        if page is None:
            return Attributes(mode, _UNKNOWN_SIZE, time.time_ns(), 0)
        return Attributes(mode, len(page.data), page.mtime, max(0, page.expires - now))

    def _read(self, node: int, pid: int, body: bytes) -> bytes:
        page = self._pages.get(node)
        if page is None:
            page = self._revalidate(node, pid, None, self.clock(), False)
        page.unread, page.taken, page.filled = False, True, True
        return self._part(page, body)

    @staticmethod
    def _part(page: Page, body: bytes) -> bytes:
        _, offset, size, flags = wire.READ_IN.unpack_from(body)
        data = page.data[offset : offset + size]
        if not flags & wire.READ_LOCKOWNER:
            data = data.ljust(size, b"\n")
        return data

    def _revalidate(self, node: int, pid: int, page: Page | None, now: int, reads: bool) -> Page:
        """Return the page to show now that the one before, if any, has expired.

        `reads`: the caller is in read(2), so it may be in the middle of that one.
        """
        if page is not None:
            if page.held == _INHERITED:
                # The server before may have been killed ahead of its answer: tell this size with
                # this text first, as for any that grows.
                page.held, page.expires = 0, now + STEP_NS
                return page
            if reads and page.unread and now - page.born < _UNREAD_NS:
                page.unread = False
                return page
            offset = (self.callers.containers.offset(pid) or 0) if reads else 0
            if offset < 0:
                # A busy machine: it may be in the middle, or at the beginning of its first read.
                offset = int(now - page.expires < _BUSY_NS)
            if offset and page.held < _MOST_HOLDS:
                # In the middle of the text, or at its end: only the first has to be kept for long.
                if offset < len(page.data):
                    page.expires = now + min(_HOLD_NS, self.ttl_ns)
                    page.held += 1
                return page
            if page.next is not None and now - page.expires < self.ttl_ns:
                return self._replace(node, page.next, self._life(node), now)
        self._sweep_some(now)
        owner = nodes.pair_of(node)
        container = self._container(node, pid)
        # A container that is not found yet may be found at the next question.
        found = container is not None or owner == self.callers.host
        if not found:
            self.contents.counts.unknown += 1
        life = self._life(node) if found and page is not None and page.taken else 0
        data = self.contents.render(nodes.index_of(node), container)
        if is_disowned():
            raise Refused(errno.EIO)  # the watchdog has answered; the kernel must not be told twice
        return self._replace(node, data, life, now)

    def _replace(self, node: int, data: bytes, life: int, now: int) -> Page:
        """Show another text. While readers come a size only grows, and before the text does."""
        page = self._pages.get(node)
        if page is not None:
            size = len(page.data)
            if page.taken and now - max(page.asked, page.expires) <= _IDLE_NS:
                if len(data) > size:
                    room = len(data) + len(data) // _ROOM_PART
                    step = Page(
                        padded(page.data, room), page.mtime + 1, page.born, now, now + STEP_NS
                    )
                    step.next = data
                    return self._show(node, step)
                data = padded(data, size)
            if data == page.data and page.filled:  # the kernel's pages stay good
                page.born, page.expires, page.next, page.unread = now, now + life, None, True
                page.held = 0
                return page
        mtime = max(page.mtime + 1 if page is not None else 0, time.time_ns())
        return self._show(node, Page(data, mtime, now, now, now + life))

    def _show(self, node: int, page: Page) -> Page:
        before = self._pages.get(node)
        page.taken = before is not None and before.taken
        if nodes.index_of(node) < SYSFS:  # sizes of sysfs hardly ever change, and they are many
            self.store.put(node, page.mtime, page.data)
        self._pages[node] = page
        return page

    def _life(self, node: int) -> int:
        return self.ttl_ns * self.contents.lives(nodes.index_of(node))

    def _is_old(self, node: int) -> bool:
        """Return whether the kernel has a node from an earlier container of the same number."""
        looked_up = self._looked_up.get(nodes.pidns_offset(nodes.pair_of(node)))
        return looked_up is not None and node not in looked_up

    def _container(self, node: int, pid: int) -> Container | None:
        """Return the container of a node; None where the node is that of an earlier one."""
        owner = nodes.pair_of(node)
        if owner == self.callers.host or self._is_old(node):
            return None
        container = self.callers.known(owner, pid)
        if container is None or container.epoch != self._epoch(owner):
            return None
        return container

    def _epoch(self, owner: int) -> int:
        """Return the epoch of the nodes that the kernel has of an owner."""
        return self.store.epoch(nodes.pidns_offset(owner))

    # -- names ---------------------------------------------------------------------------------

    def _lookup(self, node: int, pid: int, body: bytes) -> bytes:
        name = body[:-1]
        index, owner = nodes.index_of(node), nodes.pair_of(node)
        if index == nodes.OWN:
            owner = self._owner_of(name, pid)
            child = nodes.node(owner, nodes.VIEW_ROOT)
        else:
            if self._is_old(node):
                raise Refused(errno.ESTALE)
            container = self._container(node, pid) if index >= SYSFS else None
            child = nodes.node(owner, self.names.child(index, name, container))
        looked_up = self._looked_up.get(nodes.pidns_offset(owner))
        if looked_up is not None:
            looked_up.add(child)
        found = self._attributes(child, self._pages.get(child), self.clock())
        if stat.S_ISREG(found.mode):
            found = found._replace(valid_ns=0)
        generation = 0
        if owner not in (0, self.callers.host):
            generation = self.callers.generation(owner, self._epoch(owner))
        valid_ns = self.names.valid_ns(nodes.index_of(child))
        return wire.entry_out(child, generation, inode_number(child), found, valid_ns)

    def _owner_of(self, name: bytes, pid: int) -> int:
        """Return the owner of a key, and the kernel's nodes with it. Raise Refused."""
        if name == _HOST_NAME:
            return self.callers.host
        key = self.callers.parse_key(name)
        if key is None:
            raise Refused(errno.ENOENT)
        owner, epoch = key
        if epoch != self._epoch(owner):
            container = self.callers.known(owner, pid)
            if container is None or container.epoch != epoch:
                raise Refused(errno.ENOENT)  # it has ended
            self._begin_epoch(owner, epoch)
        return owner

    def _begin_epoch(self, owner: int, epoch: int) -> None:
        """Give the nodes of a pid namespace to the next container that has its number."""
        offset = nodes.pidns_offset(owner)
        if self._epoch(owner):
            self._looked_up[offset] = set()
        self._drop_pages(lambda other: nodes.pidns_offset(other) == offset)
        self.store.set_epoch(offset, epoch)

    def _found(self, owner: int, container: Known) -> None:
        """Show no text of a container that had the same owner before, and ended in this tick."""
        before = self._rendered_for.get(owner)
        if before is None or before() is not container:
            if before is not None:  # else the pages are those that a server before has left
                self._drop_pages(lambda other: other == owner)
            self._rendered_for[owner] = weakref.ref(container)

    def _drop_pages(self, of: Callable[[int], bool]) -> None:
        for node in [node for node in list(self._pages) if of(nodes.pair_of(node))]:
            self._forget(node)

    def _forget(self, node: int) -> None:
        self._pages.pop(node, None)
        self.store.drop(node)

    def _readlink(self, node: int, pid: int, body: bytes) -> bytes:
        """Return where a link leads: those of the shared part lead each caller to its own."""
        index, callers = nodes.index_of(node), self.callers
        path = self.names.links.get(index)
        if path is None:
            return self.names.target(index)
        if index == nodes.CGROUP_LINK:
            return f"{self.caller_mount}/{path}".encode()
        owner = callers.owner(pid)
        by_caller = owner == callers.host or (self.triggers and index == nodes.PRESSURE_LINK)
        if by_caller and callers.containers.sees_caller_mount(pid):
            return f"{self.caller_mount}/{path}".encode()
        name = _HOST_NAME
        if owner not in (0, callers.host):
            container = callers.known(owner, pid)
            if container is not None:
                self._found(owner, container)
                name = callers.key(owner, container.epoch)
                callers.containers.prewarm(nodes.unpack(owner), pid)
        return b"../" * path.count("/") + b"own/" + name + b"/" + path.encode()

    def _opendir(self, node: int, pid: int, body: bytes) -> bytes:
        self._may_list(node, pid)
        return wire.OPEN_OUT.pack(0, 0)

    def _readdir(self, node: int, pid: int, body: bytes) -> bytes:
        """List from an offset on. Nothing is kept of open directories, so servers may change."""
        self._may_list(node, pid)
        _, offset, size, _ = wire.READ_IN.unpack_from(body)
        data = b""
        for position, entry in enumerate(self._entries(node, pid)[offset:], offset + 1):
            item = wire.dirent(inode_number(entry.number), position, entry.mode, entry.name)
            if len(data) + len(item) > size:
                break
            data += item
        return data

    def _may_list(self, node: int, pid: int) -> None:
        if nodes.index_of(node) == nodes.OWN and self.callers.owner(pid) != self.callers.host:
            raise Refused(errno.EACCES)

    def _entries(self, node: int, pid: int) -> list[Entry]:
        index, owner = nodes.index_of(node), nodes.pair_of(node)
        container = self._container(node, pid) if index >= SYSFS else None
        entries = [
            Entry(entry.name, nodes.node(owner, entry.number), entry.mode)
            for entry in self.names.children(index, container)
        ]
        if index == nodes.OWN:
            host = nodes.node(self.callers.host, nodes.VIEW_ROOT)
            entries.append(Entry(_HOST_NAME, host, DIRECTORY))
            for identity in sorted(self.callers.containers.known()):
                known = packed(identity)
                if living := self.callers.known(known, 0):
                    name = self.callers.key(known, living.epoch)
                    entries.append(Entry(name, nodes.node(known, nodes.VIEW_ROOT), DIRECTORY))
        return entries


def padded(data: bytes, size: int) -> bytes:
    """Lengthen a text by blanks in front of its last newlines: no line more, no value changed."""
    end = len(data.rstrip(b"\n"))
    return data[:end] + b" " * (size - len(data)) + data[end:]
