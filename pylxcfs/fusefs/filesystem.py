"""What each request means: whose view a caller gets, from which snapshot, cached or not.

The table of DESIGN (see ARCHITECTURE.md, "Who gets what"):

    opener of a node                     gets
    the container that owns it           its own view, from the page cache; a thread of which it
                                         is not known how it reads goes past that
    the host                             the owner's view, past the cache
    anyone else (so on the host's node)  the opener's own view, past the cache

Synchronous; knows no message format and no pyfuse3. Called by the express lane and by
operations.py, possibly from two threads: every table entry is replaced whole, and the worst a
race can do is to render a file twice.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import time
from collections.abc import Callable
from typing import Final

from pylxcfs.errors import SourceError
from pylxcfs.fusefs import nodes
from pylxcfs.fusefs.attributes import Attributes
from pylxcfs.fusefs.callers import Callers
from pylxcfs.fusefs.contents import Contents
from pylxcfs.fusefs.handles import Handles
from pylxcfs.fusefs.names import Names
from pylxcfs.fusefs.nodes import CACHED, COMPAT, FILES, STRANGER, WATCHED
from pylxcfs.fusefs.pages import Pages
from pylxcfs.fusefs.ports import Containers
from pylxcfs.fusefs.refusal import Refused
from pylxcfs.fusefs.renderings import Renderings
from pylxcfs.fusefs.reopens import Reopens
from pylxcfs.fusefs.snapshots import PAGE, Snapshots
from pylxcfs.fusefs.survivors import Survivors
from pylxcfs.fusefs.threads import WholeReaders
from pylxcfs.fusefs.tree import Tree
from pylxcfs.fusefs.triggers import READY, Triggers
from pylxcfs.fusefs.wire import FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE

#: Names never change their node, so the kernel may keep them; this bounds how long a directory
#: below by-pidns/ is believed after its container has ended.
NAME_VALID_NS: Final = 1_000_000_000

#: Serials that are looked at for a free one. Who has so many files open that there is none
#: shares texts with itself.
_TRIES: Final = 64

#: Bytes by which a text may have grown since another server showed it whole.
_GROWN: Final = 128


class Filesystem:
    """One mount, for as long as this server lives."""

    def __init__(
        self,
        tree: Tree,
        contents: Contents,
        containers: Containers,
        snapshots: Snapshots,
        readers: WholeReaders,
        triggers: Triggers | None = None,
    ) -> None:
        self.tree = tree
        self.contents = contents
        self.snapshots = snapshots
        self.readers = readers
        self.triggers = triggers
        self.survivors = Survivors()
        self.callers = Callers(containers, readers)
        self.renderings = Renderings(contents, self.callers, snapshots)
        self.pages = Pages(self.renderings, readers)
        self.names = Names(tree, contents, self.callers)
        #: Open handles that are not cached, with the text that each reads.
        self._handles = Handles()
        # Handles of a server before this one may still be open; start somewhere else.
        self._serial = itertools.count(time.monotonic_ns() >> 10)
        newcomers = self.pages.newcomers
        self.reopens = Reopens(self.callers, newcomers, snapshots, self._handles, self._serial)
        self.callers.on_end = self.reopens.clear
        self.renderings.on_outgrown = snapshots.on_resized = self.reopens.clear
        readers.on_forget = self.reopens.forget
        #: Nodes that strangers have opened: their pages are not trusted again.
        self._strangers: set[int] = set()
        #: Called with a node: attributes that the kernel still believes have to go.
        self.forget_attributes: Callable[[int], object] = lambda node: None
        self._started_ns = time.time_ns()

    def recover(self, memory: int) -> None:
        """Know what readers had begun to read from the server before, which kept it in a memfd."""
        self.snapshots.recover(memory)
        self.survivors.use(memory)
        self.pages.recover(memory)

    # -- attributes ----------------------------------------------------------------------------

    def attributes(self, node: int, handle: int, pid: int) -> Attributes:
        """Return the attributes of a node; `handle` 0: the caller has none. Raise Refused."""
        index = nodes.index_of(node)
        if index < FILES:
            return self._fixed(index)
        if handle & CACHED or self.pages.are_shown(node):
            return self._cached_attributes(node, index, handle, pid)
        mode = self.contents.mode(index)
        if not mode:
            raise Refused(errno.ESTALE)
        if not stat.S_ISREG(mode):
            return Attributes(mode, 2 if stat.S_ISDIR(mode) else 1, 0, self._started_ns, 0)
        # Not rendered for that: a bound is enough, as readers read to the end, and less would cut
        # off who reads through the page cache anyway (sendfile, mmap).
        size = self.contents.size_bound(index)
        # A container's own node may have a cached handle from before this server, which must ask.
        valid_ns = self.snapshots.ttl_ns if nodes.pair_of(node) == self.callers.host else 0
        self.snapshots.answer(node, bound=size, asker=pid)
        return Attributes(mode, 1, size, time.time_ns(), valid_ns)

    def _fixed(self, index: int) -> Attributes:
        try:
            mode = self.tree.mode(index)
        except OSError as error:
            raise Refused(errno.ESTALE) from error
        nlink = 2 if stat.S_ISDIR(mode) else 1
        return Attributes(mode, nlink, 0, self._started_ns, NAME_VALID_NS)

    def _cached_attributes(self, node: int, index: int, handle: int, pid: int) -> Attributes:
        snapshot, valid_ns = self.pages.attributes(node, handle, pid)
        mode = self.contents.mode(index)
        if node in self._strangers:
            # A stranger may have filled a page of this node: let none of them live.
            return Attributes(mode, 1, snapshot.size, time.time_ns(), 0)
        return Attributes(mode, 1, snapshot.size, snapshot.mtime_ns, valid_ns)

    # -- contents ------------------------------------------------------------------------------

    def open(self, node: int, flags: int, uid: int, pid: int) -> tuple[int, int]:
        """Return (handle, FOPEN flags). Raise Refused."""
        self.callers.refresh()
        index = nodes.index_of(node)
        if index < FILES:
            raise Refused(errno.EISDIR if self.tree.is_directory(index) else errno.ELOOP)
        if flags & os.O_ACCMODE != os.O_RDONLY:
            return self._open_for_trigger(node, index, pid)
        if uid != 0 and not self.contents.mode(index) & 0o004:
            raise Refused(errno.EACCES)
        owner = nodes.pair_of(node)
        caller = self.callers.owner(pid)
        past_cache = bool(flags & os.O_DIRECT)
        flags = 0
        if self.contents.by_personality(index) and self.callers.containers.is_32bit(pid):
            flags = COMPAT
            self._distrust(node)  # as a stranger's, its sendfile(2) would be read by others
        if caller == self.callers.host:
            return self._direct(owner, flags)
        if caller != owner:
            self._distrust(node)
            self._check_origin(nodes.node(caller, index), caller, pid)
            return self._past_cache(node, pid, caller, flags | STRANGER)
        self._check_origin(node, caller, pid)
        snapshots = self.snapshots
        if past_cache:
            return self._direct(owner, flags)
        if (
            flags
            or not snapshots.ttl_ns
            or node in self._strangers
            or not self.pages.is_shared(node)
        ):
            return self._past_cache(node, pid, owner, flags)
        length = self.renderings.length(node, pid)
        if length > PAGE:
            return self._past_cache(node, pid, owner, flags)
        if self.readers.takes(pid, index) < length:
            return self._open_for_newcomer(node, owner, pid)
        # The pages that the kernel may have are those of what it was shown; if that was nothing,
        # or another container's, or long ago, they have to go.
        keep = FOPEN_KEEP_CACHE if snapshots.is_fresh(node) else 0
        self._tell_size(node, pid)
        if keep and self.contents.is_the_same_for_all(index):
            self.reopens.allow(node, pid, nodes.handle(owner, CACHED, 0))
        handle = nodes.handle(owner, CACHED, next(self._serial))
        self.pages.newcomers.opened(node, handle)
        return handle, keep

    def _open_for_newcomer(self, node: int, owner: int, pid: int) -> tuple[int, int]:
        """Open for a thread of which it is not known how it reads."""
        if not self.pages.has_room(node, pid):
            return self._direct(owner, 0)
        handle = self._unused(owner, CACHED | WATCHED)
        self.pages.show_current(node, pid)
        self.reopens.look_again()
        self.pages.come(node, handle, pid)
        # So its first read asks how long the text is, and without the pages for one: sendfile(2),
        # too, which never asks how old they are.
        self.forget_attributes(node)
        return handle, 0

    def _tell_size(self, node: int, pid: int) -> None:
        """Make the kernel ask for a node's size once it has a cached handle, and tell no bound.

        With a bound for its size a reader gets zeros behind the text. Answers that are on their
        way are not heeded any more.
        """
        if not self.snapshots.is_shown(node):
            self.forget_attributes(node)
            self.pages.show_current(node, pid)

    def _past_cache(self, node: int, pid: int, reads: int, flags: int) -> tuple[int, int]:
        """Open past the cache for one who is likely to come again, if it is known when he ends."""
        handle, how = self._direct(reads, flags)
        if pid in self.readers and self.contents.is_the_same_for_all(nodes.index_of(node)):
            self.reopens.repeat(node, pid, handle)
        return handle, how

    def _direct(self, reads: int, flags: int) -> tuple[int, int]:
        handle = self._unused(reads, flags)
        self._handles.open(handle)
        return handle, FOPEN_DIRECT_IO

    def _unused(self, reads: int, flags: int) -> int:
        # Serials come round: a file that stays open must not share its text with a new one.
        for _ in range(_TRIES):
            handle = nodes.handle(reads, flags, next(self._serial))
            if handle not in self._handles and not self.pages.newcomers.has(handle):
                break
        return handle

    def fill(self, node: int, handle: int, offset: int, size: int, pid: int) -> bytes:
        """Return these bytes of a page for the kernel's cache. Raise Refused.

        sendfile(2) and mappings fill pages through any handle, and others read what they left.
        """
        if handle & CACHED or (
            nodes.pair_of(handle) == nodes.pair_of(node)
            and not handle & (STRANGER | COMPAT)
            and self.snapshots.is_shown(node)
        ):
            text = self.pages.fill(node, handle, pid)
            exact = self.snapshots.is_exact(node, cached=bool(handle & CACHED))
            data = text.part(offset, size, to_size=not exact)
        else:
            data = self.read(node, handle, offset, size, pid)
        end = min(offset + size, self.snapshots.bound_beside(node, pid))
        data += b"\n" * (end - offset - len(data))
        if len(data) < size:
            self.pages.ask_later(node)
        return data

    def read(self, node: int, handle: int, offset: int, size: int, pid: int) -> bytes:
        """Return up to `size` bytes at `offset` of what the handle reads. Raise Refused.

        A handle takes its snapshot at offset 0 and keeps it until it comes back there.
        """
        data = self._handles.text(handle)
        came_whole = False
        if data is None and offset:
            data = self.survivors.find(handle)  # another server gave it its first piece
            if data is not None:
                self._handles.keep(handle, data)
            else:
                # Or all of it, which is not kept.
                came_whole = self.survivors.are_kept and handle not in self._handles
        if offset == 0 or data is None:
            own = nodes.node(nodes.pair_of(handle), nodes.index_of(node))
            if handle & STRANGER:
                self._distrust(node)  # opened while another server served
            if handle & COMPAT:
                data = self.renderings.render(own, pid, compat=True).data
            else:
                snapshot = self.snapshots.alive(own)
                if snapshot is None or (
                    snapshot.data is data and self.contents.differences(nodes.index_of(node))
                ):
                    snapshot = self.renderings.render(own, pid)
                data = snapshot.data
            if came_whole and len(data) - offset < _GROWN:
                return b""
            self._handles.keep(handle, data)
            if handle & (CACHED | WATCHED) == CACHED:  # by fcntl(2) it has O_DIRECT now
                self.reopens.with_text.add(handle)
        length = len(data)
        if offset == 0:
            if size < length:
                self.readers.saw_piece(pid, nodes.index_of(node))
                self.survivors.keep(handle, data)
                return data[:size]
            if length <= PAGE:
                index = nodes.index_of(node)
                self.readers.saw_whole(pid, index, size, length, self.callers.identify)
            return data
        return data[offset : offset + size]

    def _open_for_trigger(self, node: int, index: int, pid: int) -> tuple[int, int]:
        if self.triggers is None or self.contents.trigger_path(index) is None:
            raise Refused(errno.EACCES)
        handle, flags = self.open(node, os.O_RDONLY, 0, pid)
        if handle & CACHED:
            self.pages.newcomers.release(node, handle)
            handle, flags = self._direct(nodes.pair_of(handle), 0)
        self.triggers.opened(handle)
        return handle, flags

    def write(self, node: int, handle: int, data: bytes, pid: int) -> None:
        """Arm the trigger that is written to a pressure file. Raise Refused."""
        path = self.contents.trigger_path(nodes.index_of(node))
        if self.triggers is None or path is None:
            raise Refused(errno.EINVAL)
        owner = nodes.pair_of(handle)
        try:
            descriptor = self.callers.containers.open_trigger(
                nodes.unpack(owner or self.callers.host),
                self.callers.member(owner, pid),
                path,
            )
            self.triggers.arm(handle, descriptor, data)
        except OSError as error:
            raise Refused(error.errno or errno.EIO) from error

    def poll(self, node: int, handle: int, poller: int, schedule: bool) -> int:
        """Return a handle's events. Raise Refused(ENOSYS) where triggers are off."""
        if self.triggers is None:
            raise Refused(errno.ENOSYS)
        if self.contents.trigger_path(nodes.index_of(node)) is None:
            return READY
        return self.triggers.poll(handle, poller, schedule)

    def truncate(self, node: int, pid: int) -> Attributes:
        """Let O_TRUNC pass on files that take triggers. Raise Refused for any other."""
        if self.triggers is None or self.contents.trigger_path(nodes.index_of(node)) is None:
            raise Refused(errno.EPERM)
        return self.attributes(node, 0, pid)

    def release(self, node: int, handle: int) -> None:
        """Forget a handle."""
        if self.triggers is not None:
            self.triggers.release(handle)
        if handle & CACHED:
            self.pages.newcomers.release(node, handle)
            self.reopens.with_text.discard(handle)
        self._handles.release(handle)

    def instead(self, node: int, handle: int) -> bytes:
        """Return the text for a read that failed: the one that it had begun, or the host's.

        The rest is read from that, too. Raise Refused(EIO) if there is none.
        """
        text = self._handles.text(handle) or self.host_text(node)
        if not handle & CACHED:
            self._handles.keep(handle, text)
        return text

    def host_text(self, node: int) -> bytes:
        """Return the host's file behind a node. Raise Refused(EIO) if it cannot be read."""
        try:
            return self.contents.host(nodes.index_of(node))
        except SourceError as error:
            raise Refused(errno.EIO) from error

    def changed(self) -> None:
        """Show a changed policy at once: the next reads render anew."""
        self.reopens.clear()
        self.snapshots.clear()

    def sweep(self) -> None:
        """Drop what belongs to containers that have ended; call it now and then."""
        self.callers.heard()
        self.callers.forget_found()
        self.reopens.clear()
        self.pages.newcomers.forget_unheard(self.snapshots.clock())
        lives = self.callers.who_lives()
        self.snapshots.sweep(lambda node: lives(nodes.pair_of(node)))
        self.pages.newcomers.forget_programs(lives)
        for node in list(self._strangers):
            if not lives(nodes.pair_of(node)):
                self._strangers.discard(node)

    def _distrust(self, node: int) -> None:
        """Serve a node past the cache from now on, as a stranger opens it.

        Its sendfile(2) or mapping fills the page cache whatever flags its handle has, and the
        owner may keep a cached handle open for ever: no page is safe once its stranger is gone.
        """
        if node not in self._strangers and nodes.pair_of(node) != self.callers.host:
            self._strangers.add(node)
            self.reopens.clear()
            self.forget_attributes(node)

    def _check_origin(self, node: int, caller: int, pid: int) -> None:
        """Drop what is kept under a container's number if that was a container before it."""
        if caller and (self.snapshots.has(node) or node in self.pages.newcomers):
            container = self.callers.container(caller, pid)
            if not self.snapshots.belongs(node, container):
                self.reopens.clear()
                self.snapshots.drop(node)
                self.pages.newcomers.settle(node)
