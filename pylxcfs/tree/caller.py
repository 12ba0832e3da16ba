"""The caller mount: each open file has the view of the process that opened it.

For paths that are resolved on the host: containerd's CRI binds from here, runc and crun do for
user namespaces, and so do processes of the host, which see their own cgroup. One inode is shared by
all containers, so **no page of it is ever filled**: files are opened with direct I/O, and a READ
that would fill a page (sendfile(2), splice(2), private mappings) is answered EINVAL; programs fall
back to read(2), which is private.

A handle keeps its text from its READ at offset 0 until the next one there. Node ids are file
indexes (nodes.py), the same for all, and st_ino is the same number. A handle carries its owner:

    63          22 21       20      0
    | owner       | compat | serial |

What reads need is answered by the handlers here, in the loop of fuse/connection.py; the rest goes
to pyfuse3 (operations.py): a READ through pyfuse3 has neither the inode nor the flag that tells
page fills apart, and the way through libfuse and trio takes three times as long.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from pylxcfs.errors import Refused, SourceError
from pylxcfs.fuse import wire
from pylxcfs.fuse.connection import Handler, Request, is_disowned
from pylxcfs.fuse.store import Store
from pylxcfs.fuse.wire import Attributes
from pylxcfs.tree import nodes
from pylxcfs.tree.callers import Callers
from pylxcfs.tree.cgroup import WITHOUT_CONTEXT, CgroupTree
from pylxcfs.tree.contents import Contents
from pylxcfs.tree.names import Names
from pylxcfs.tree.nodes import FILES, SYSFS
from pylxcfs.tree.sysfs import Entry
from pylxcfs.tree.triggers import READY, Triggers
from pylxcfs.views.model import Container

#: The reader has a 32-bit personality, and the file depends on that.
_COMPAT: Final = 1 << 21
_SERIALS: Final = 1 << 21
#: Serials that are tried for one that no open file with a text has.
_TRIES: Final = 64

#: How long a rendering for stat(2) is good for the read after it.
_UNREAD_NS: Final = 2_000_000
#: Bytes of texts that the open files of one container may keep, and of all.
_MOST_EACH: Final = 16 << 20
_MOST: Final = 64 << 20
#: A text counts as so many bytes at least: the store has no more slots than `_MOST` has of these.
_LEAST: Final = 4096
#: Bytes that are written to a file of cgroup/ at once. cgroupfs takes a page of them.
_MOST_WRITTEN: Final = 4096
#: Directories that processes of the host keep open; further ones are listed as the host sees them.
_MOST_LISTERS: Final = 1024


class Rendering(NamedTuple):
    """A text that all readers of one container share for the time to live."""

    text: bytes
    #: CLOCK_REALTIME at which the text became what it is, in nanoseconds.
    made_ns: int
    expires: int


@dataclass(eq=False)
class CallerMount:
    """The requests of the caller mount."""

    names: Names
    contents: Contents
    callers: Callers
    store: Store
    ttl_ns: int
    triggers: Triggers | None
    #: Passes a request on to pyfuse3, with what its caller's limit goes by; None: it has none.
    send: Callable[[Request, Hashable], None]
    clock: Callable[[], int] = time.monotonic_ns
    #: What is below cgroup/: all its requests are pyfuse3's.
    cgroup: CgroupTree | None = None

    def __post_init__(self) -> None:
        self._started_ns = time.time_ns()
        self._renderings: dict[tuple[Container | None, int, bool], Rendering] = {}
        self._texts = Texts()
        #: Processes of the host that have a directory open, by the owner in the handle.
        self._listers: dict[int, Container] = {}
        self._numbers = itertools.count()
        for handle, _, text in self.store.load():
            self._texts.keep(handle, text)
        # Handles of servers before this one may still be open: begin elsewhere.
        self._first = time.monotonic_ns() >> 12
        self._serial = itertools.count(self._first)
        self._issued = 0
        self.handlers: dict[int, Handler] = {
            wire.OPEN: self._open,
            wire.READ: self._read,
            wire.RELEASE: self._release,
            wire.RELEASEDIR: self._releasedir,
            wire.GETATTR: self._getattr,
            wire.WRITE: self._write,
            wire.POLL: self._poll,
        }

    # -- what the loop and the server ask ------------------------------------------------------

    def other(self, request: Request) -> None:
        """Pass a request on to pyfuse3, but for names that do not exist: guesses are cheap."""
        opcode, _, node, _, body = request
        if nodes.is_cgroup(node):
            if self.cgroup is None:
                raise Refused(errno.ESTALE)
            self._send_on_cgroup(self.cgroup, request)
            return
        if opcode == wire.LOOKUP:
            self.lookup(node, body[:-1])
        self.send(request, None)

    def _send_on_cgroup(self, cgroup: CgroupTree, request: Request) -> None:
        """Pass on a request that may block: each container has a limit."""
        opcode, _, _, pid, _ = request
        try:
            key = cgroup.files.key(pid)
        except OSError as error:  # it has ended
            raise Refused(errno.ENOMEM if opcode == wire.LOOKUP else errno.ESRCH) from error
        if opcode not in WITHOUT_CONTEXT:
            self.send(request, key)
            return
        passed = cgroup.keep_context(request)
        try:
            self.send(passed, key)
        except Refused:
            (number,) = wire.RELEASE_IN.unpack_from(passed[-1])
            cgroup.take_context(number)
            raise

    def fallback(self, request: Request) -> bytes:
        """Show the host's file where a request failed; a RELEASE is done."""
        opcode, _, node, _, body = request
        if opcode == wire.RELEASE:
            return b""
        if nodes.is_cgroup(node):
            raise Refused(errno.EIO)
        if opcode == wire.OPEN:
            return wire.OPEN_OUT.pack(self._handle(0, 0), wire.FOPEN_DIRECT_IO)
        if opcode not in (wire.READ, wire.GETATTR) or node < FILES:
            raise Refused(errno.EIO)
        text = self.contents.render(node, None)
        if opcode == wire.GETATTR:
            mode = self.names.mode(node)
            return wire.attr_out(node, Attributes(mode, len(text), time.time_ns(), 0))
        handle, offset, size = self._private(body)
        text = self._texts.get(handle) or text  # the rest of the text that it began
        self._texts.keep(handle, text)
        return text[offset : offset + size]

    def key(self, opcode: int, node: int, pid: int, word: int) -> int:
        """Return the pid namespace of the caller, else that of the handle's owner."""
        if opcode in (wire.RELEASE, wire.RELEASEDIR):
            return nodes.unpack(nodes.pair_of(word)).pidns
        return self.callers.containers.namespace(pid)

    def changed(self) -> None:
        """Render again at the next question: the policy has changed."""
        self._renderings.clear()

    def sweep(self) -> None:
        """Forget renderings that have expired; call it now and then."""
        now = self.clock()
        for key, rendering in list(self._renderings.items()):
            if now >= rendering.expires:
                self._renderings.pop(key, None)

    # -- attributes and names, for pyfuse3, too ------------------------------------------------

    def attributes(self, node: int, pid: int) -> Attributes:
        """Return what a caller sees of a node; a file is as long as its text. Raise Refused."""
        found = self.listed(node)
        if not stat.S_ISREG(found.mode):
            return found
        owner, compat = self.callers.owner(pid), self._is_compat(node, pid)
        try:
            # From runtimes this comes before the container has its limits.
            rendering = self._rendering(node, owner, pid, compat, most_ns=_UNREAD_NS)
        except SourceError:
            return found  # it exists, and READ gets the error
        return found._replace(size=len(rendering.text), mtime_ns=rendering.made_ns)

    def listed(self, node: int) -> Attributes:
        """Return attributes as LOOKUP and READDIR give them: sizes are not rendered for that."""
        mode = self.names.mode(self._index(node))
        if not stat.S_ISREG(mode):
            return Attributes(mode, 0, self._started_ns, 1_000_000_000)
        if self.triggers is not None and self.contents.takes_triggers(node):
            mode |= 0o222
        return Attributes(mode, 0, self._started_ns, 0)

    def lookup(self, parent: int, name: bytes) -> int:
        """Return the node of a name. Raise Refused.

        Dentries are shared by all callers, so a name that is hidden from some is found by all.
        """
        return self.names.child(self._index(parent), name, None)

    def open_directory(self, node: int, pid: int) -> int:
        """Return a handle for a listing: it carries owner and directory.

        For a process of the host, which has the view of its own cgroup, it has a number where an
        owner has its cgroup namespace.
        """
        owner = self.callers.owner(pid)
        container = self.callers.container(owner, pid)  # from now on it is found without a process
        has_room = len(self._listers) < _MOST_LISTERS
        if owner == self.callers.host and container is not None and has_room:
            numbers = (owner + 1 + number % (_SERIALS - 1) for number in self._numbers)
            owner = next(number for number in numbers if number not in self._listers)
            self._listers[owner] = container
        return nodes.node(owner, self._index(node))

    def entries(self, handle: int) -> list[Entry]:
        """List the directory of a handle as its opener sees it. Raise Refused.

        For a process of the host that opened it with an earlier server, as the host sees it.
        """
        owner = nodes.pair_of(handle)
        container = self._listers.get(owner) or self.callers.known(owner, 0)
        return self.names.children(nodes.index_of(handle), container)

    def close_directory(self, handle: int) -> None:
        """Forget the opener of a listing."""
        self._listers.pop(nodes.pair_of(handle), None)

    @staticmethod
    def _index(node: int) -> int:
        return nodes.VIEW_ROOT if node == nodes.ROOT else node

    # -- the handlers --------------------------------------------------------------------------

    def _getattr(self, node: int, pid: int, body: bytes) -> bytes | None:
        if nodes.is_cgroup(node):
            return None
        return wire.attr_out(node, self.attributes(node, pid))

    def _open(self, node: int, pid: int, body: bytes) -> bytes | None:
        if nodes.is_cgroup(node):
            return None
        if node < FILES:
            raise Refused(errno.EISDIR)
        (flags,) = wire.OPEN_IN.unpack_from(body)
        handle = self._handle(self.callers.owner(pid), _COMPAT if self._is_compat(node, pid) else 0)
        if flags & os.O_ACCMODE != os.O_RDONLY:
            if node >= SYSFS:
                raise Refused(errno.EACCES)  # as kernfs_fop_open does, also to root
            # procfs lets root open every file; the write fails.
            if self.triggers is not None and self.contents.takes_triggers(node):
                self.triggers.opened(handle)
        return wire.OPEN_OUT.pack(handle, wire.FOPEN_DIRECT_IO)

    def cgroup_handle(self, cgroup: CgroupTree, pid: int) -> int:
        """Return a handle for a file of cgroup/; its low bits are a serial as in any other."""
        owner = self.callers.owner(pid)
        # There are more serials than files of one owner for which something is kept.
        handles = (owner << 22 | serial for serial in self._serials(_SERIALS))
        return next(handle for handle in handles if not cgroup.is_open(handle))

    def _handle(self, owner: int, flags: int) -> int:
        for serial in self._serials(_TRIES):
            handle = owner << 22 | flags | serial
            if self._texts.get(handle) is None:
                break
        return handle

    def _serials(self, most: int) -> Iterator[int]:
        """Give out so many serials, at most."""
        for serial in itertools.islice(self._serial, most):
            self._issued += 1
            yield serial % _SERIALS

    def _read(self, node: int, pid: int, body: bytes) -> bytes | None:
        handle, offset, size = self._private(body)
        if nodes.is_cgroup(node):
            return None
        text = self._text(node, handle, offset, pid)
        if offset == 0:
            if size < len(text):
                self.store.put(handle, 0, text)  # the rest has to come from the same text
            else:
                self.store.drop(handle)
        return text[offset : offset + size]

    @staticmethod
    def _private(body: bytes) -> tuple[int, int, int]:
        """Return handle, offset and size of a READ. Refuse one that fills a page all share."""
        handle, offset, size, flags = wire.READ_IN.unpack_from(body)
        if not flags & wire.READ_LOCKOWNER:
            raise Refused(errno.EINVAL)
        return handle, offset, size

    def _text(self, node: int, handle: int, offset: int, pid: int) -> bytes:
        """Return the text that a handle reads. Raise SourceError or Refused."""
        text = self._texts.get(handle) if offset else None
        if text is None:
            if offset and not self._is_ours(handle):
                # An earlier server gave it a whole text: one in pieces would be in the store.
                return b""
            owner = nodes.pair_of(handle)
            text = self._rendering(node, owner, pid, bool(handle & _COMPAT)).text
            if is_disowned():
                raise Refused(errno.EIO)  # the watchdog has answered with the host's file
            for lost in self._texts.keep(handle, text):
                self.store.drop(lost)
        return text

    def _is_ours(self, handle: int) -> bool:
        """Return whether this server has given the handle out."""
        return (handle - self._first) % _SERIALS < self._issued

    def _release(self, node: int, pid: int, body: bytes) -> bytes | None:
        (handle,) = wire.RELEASE_IN.unpack_from(body)
        if nodes.is_cgroup(node):  # not passed on, as the kernel does not repeat one that is lost
            if self.cgroup is not None:
                self.cgroup.release(handle)
            return b""
        self._texts.drop(handle)
        self.store.drop(handle)
        if self.triggers is not None:
            self.triggers.release(handle)
        return b""

    def _releasedir(self, node: int, pid: int, body: bytes) -> bytes | None:
        return b"" if nodes.is_cgroup(node) else None  # those have no handles

    def _write(self, node: int, pid: int, body: bytes) -> bytes | None:
        """Arm the trigger that is written to a pressure file.

        Elsewhere a write fails as that of the kernel's file does: EIO (proc_reg_write), and
        EOPNOTSUPP for pressure without triggers (psi_write where PSI is off).
        """
        handle, _, size = wire.WRITE_IN.unpack_from(body)
        if nodes.is_cgroup(node):
            if size > _MOST_WRITTEN:
                raise Refused(errno.E2BIG)
            return None
        if not self.contents.takes_triggers(node):
            raise Refused(errno.EIO)
        if self.triggers is None:
            raise Refused(errno.EOPNOTSUPP)
        text = body[wire.WRITE_IN.size : wire.WRITE_IN.size + size]
        owner = nodes.unpack(nodes.pair_of(handle) or self.callers.host)
        try:
            descriptor = self.callers.containers.open_trigger(owner, pid, self.contents.path(node))
            self.triggers.arm(handle, descriptor, text)
        except OSError as error:
            raise Refused(error.errno or errno.EIO) from error
        return wire.WRITE_OUT.pack(size)

    def _poll(self, node: int, pid: int, body: bytes) -> bytes:
        """Answer ENOSYS while triggers are off: a pending poll can prevent suspend."""
        if self.triggers is None:
            raise Refused(errno.ENOSYS)
        handle, poller, flags = wire.POLL_IN.unpack_from(body)
        events = READY
        if not nodes.is_cgroup(node) and self.contents.takes_triggers(node):
            events = self.triggers.poll(handle, poller, bool(flags & wire.POLL_SCHEDULE_NOTIFY))
        return wire.POLL_OUT.pack(events)

    # -- renderings ----------------------------------------------------------------------------

    def _is_compat(self, node: int, pid: int) -> bool:
        return self.contents.by_personality(node) and self.callers.containers.is_32bit(pid)

    def _rendering(
        self, index: int, owner: int, pid: int, compat: bool, *, most_ns: int = sys.maxsize
    ) -> Rendering:
        """Return what is shown now; one that is made lives `most_ns` at most. Raise SourceError."""
        container = self.callers.container(owner, pid)
        key = container, index, compat
        now = self.clock()
        rendering = self._renderings.get(key)
        if rendering is None or now >= rendering.expires:
            if container is None and owner != self.callers.host:
                self.contents.counts.unknown += 1
            text = self.contents.render(index, container, compat)
            life = min(most_ns, self.ttl_ns * self.contents.lives(index))
            # mtime is that of the text: tar(1) complains of a file that changes.
            made_ns = rendering.made_ns if rendering and rendering.text == text else time.time_ns()
            rendering = self._renderings[key] = Rendering(text, made_ns, now + life)
        return rendering


class Texts:
    """The texts of open files, bounded for each owner: one never pushes out those of another."""

    def __init__(self, most_each: int = _MOST_EACH, most: int = _MOST, least: int = _LEAST) -> None:
        self._most_each = most_each
        self._most = most
        self._least = least
        self._total = 0
        self._held: dict[int, int] = {}
        self._by_owner: dict[int, OrderedDict[int, bytes]] = {}

    def get(self, handle: int) -> bytes | None:
        """Return the text of a handle."""
        texts = self._by_owner.get(nodes.pair_of(handle))
        return texts.get(handle) if texts is not None else None

    def keep(self, handle: int, text: bytes) -> list[int]:
        """Give a handle its text; return the handles that lost theirs for that.

        They are the owner's oldest; where all owners together have too many, those of the owner
        that has most.
        """
        self.drop(handle)
        owner = nodes.pair_of(handle)
        self._by_owner.setdefault(owner, OrderedDict())[handle] = text
        cost = max(len(text), self._least)
        self._held[owner] = self._held.get(owner, 0) + cost
        self._total += cost
        lost = []
        while self._held[owner] > self._most_each and len(self._by_owner[owner]) > 1:
            lost.append(next(iter(self._by_owner[owner])))
            self.drop(lost[-1])
        while self._total > self._most:
            hog = max(self._held, key=self._held.__getitem__)
            lost.append(next(iter(self._by_owner[hog])))
            self.drop(lost[-1])
        return lost

    def drop(self, handle: int) -> None:
        """Forget a handle."""
        owner = nodes.pair_of(handle)
        texts = self._by_owner.get(owner)
        text = texts.pop(handle, None) if texts is not None else None
        if text is not None:
            cost = max(len(text), self._least)
            self._held[owner] -= cost
            self._total -= cost
            if not texts:
                del self._by_owner[owner], self._held[owner]
