"""cgroup/ of the caller mount: nodes, names, handles and texts of the cgroup tree.

    cgroup/memory/lxc/ct/memory.stat     as cgroupfs has it, for callers in /lxc/ct

All callers share the dentries of a mount. So one name leads to one node for all, and a name that a
caller may not see is answered with ENOMEM: of all errors only that one (and EINTR) leaves the
dentry as it is (fuse_dentry_revalidate, fs/fuse/dir.c). After any other one the kernel would drop
it, with what is mounted there, for the containers that may see it. The answer is the same whether
there is such a cgroup or not.

The kernel compares modes and owners with the caller (default_permissions): attributes are those of
cgroupfs, the same for all, and never cached. What cgroupfs itself decides, and where a caller is,
is behind the port CgroupFiles.

Methods may block, so operations.py calls them in threads, and raise Refused or OSError. Those that
keep or forget something for a handle do not block, and are not called there: a thread that goes on
after ETIMEDOUT keeps nothing, as no RELEASE comes for an open that has failed.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import threading
from collections.abc import Hashable, Iterator
from typing import Final, NamedTuple

from pylxcfs.errors import Refused
from pylxcfs.fuse import wire
from pylxcfs.fuse.connection import Request
from pylxcfs.tree import nodes
from pylxcfs.tree.ports import CgroupCaller, CgroupFiles, CgroupView

#: Requests in which pyfuse3 does not pass the node and the caller on. Their bodies begin with the
#: handle.
WITHOUT_CONTEXT: Final = frozenset({wire.READ, wire.WRITE, wire.READDIR, wire.READDIRPLUS})

#: Files that one container or user of the host may have open for writing, and bytes of texts that
#: are half read.
_MOST_WRITERS: Final = 4096
_MOST_TEXTS: Final = 8 << 20
#: What an entry of either table takes at least.
_LEAST: Final = 4096


class RequestContext(NamedTuple):
    """What a request says beside what pyfuse3 passes on."""

    node: int
    pid: int
    handle: int
    offset: int
    #: Of a READ, and of the answer to a READDIR.
    size: int


class Found(NamedTuple):
    """A node with its attributes."""

    node: int
    attributes: os.stat_result


class Opened(NamedTuple):
    """The opener of a file, and its rights if it may write."""

    key: Hashable
    rights: bytes | None


class Text(NamedTuple):
    """A text, its reader, and the rights and namespaces for which it was made."""

    key: Hashable
    rights: bytes
    text: bytes


class CgroupTree:
    """The tree below cgroup/."""

    def __init__(self, files: CgroupFiles) -> None:
        self.files = files
        self._keys = {nodes.HIERARCHIES.index(k): k for k in files.served if k in nodes.HIERARCHIES}
        #: Nodes of the hierarchies, and of the links to them, by name in cgroup/.
        self.children: dict[bytes, int] = {}
        #: Where the links lead.
        self.links: dict[int, bytes] = {}
        for number, key in self._keys.items():
            found = files.served[key]
            root = nodes.cgroup_node(number, found.attributes.st_ino)
            self.children[found.name.encode()] = root
            for alias in found.aliases:
                link = nodes.CGROUP_ALIASES + nodes.HIERARCHIES.index(alias)
                self.children[alias.encode()] = link
                self.links[link] = found.name.encode()
        #: Names of files by number, for all cgroups. Containers choose names of directories: those
        #: are never here, as one that has the number of a file would hide the file from all.
        self._names: dict[int, str] = {}
        self._contexts: dict[int, RequestContext] = {}
        self._numbers = itertools.count(1 << 63)  # no handle of a listing elsewhere
        #: Files open for writing, and texts that are half read, by handle; and the number of the
        #: former by key (CgroupCaller.key).
        self._writers: dict[int, Opened] = {}
        self._texts: dict[int, Text] = {}
        self._counts: dict[Hashable, int] = {}
        self._lock = threading.Lock()

    # -- contexts of requests --------------------------------------------------------------------

    def keep_context(self, request: Request) -> Request:
        """Return a request to pass on to pyfuse3, with a number in place of its handle."""
        opcode, unique, node, pid, body = request
        handle, offset, size, _ = wire.READ_IN.unpack_from(body.ljust(wire.READ_IN.size, b"\0"))
        number = next(self._numbers)
        self._contexts[number] = RequestContext(node, pid, handle, offset, size)
        return opcode, unique, node, pid, wire.RELEASE_IN.pack(number) + body[8:]

    def has_context(self, number: int) -> bool:
        """Return whether a number was given for a request, and not for another handle."""
        return number in self._contexts

    def take_context(self, number: int) -> RequestContext:
        """Return the context of a request by its number, once."""
        return self._contexts.pop(number)

    # -- names and attributes --------------------------------------------------------------------

    def lookup(self, parent: int, name: bytes, caller: CgroupCaller) -> Found:
        """Find a name."""
        text = os.fsdecode(name)
        key, number, _ = self._parts(parent)
        try:
            view = caller.view(key, number)
        except OSError as error:
            if error.errno in (errno.ESTALE, errno.ENOENT):
                raise
            raise Refused(errno.ENOMEM) from error
        if not view.inside and view.next != text:
            raise Refused(errno.ENOMEM)
        return self._found(parent, text, view.stat(text))

    def attributes(self, node: int, caller: CgroupCaller) -> os.stat_result:
        """Return the attributes of a node."""
        if node in self.children.values():  # all callers see the hierarchies
            return self.files.served[self._parts(node)[0]].attributes
        view, name = self._view(node, caller)
        return view.stat(name)

    def entries(
        self, node: int, caller: CgroupCaller, after: int
    ) -> Iterator[tuple[int, bytes, Found]]:
        """List (st_ino, name, node) of a directory, from behind st_ino `after`.

        Nothing where the caller has no cgroup of its own.
        """
        try:
            view, _ = self._view(node, caller)
        except PermissionError:
            return
        for number, name, found in view.entries(after):
            yield number, os.fsencode(name), self._found(node, name, found)

    def _found(self, parent: int, name: str, found: os.stat_result) -> Found:
        hierarchy, number, _ = nodes.cgroup_of(parent)
        try:
            if stat.S_ISDIR(found.st_mode):
                return Found(nodes.cgroup_node(hierarchy, found.st_ino), found)
            encoded = os.fsencode(name)
            if self._names.setdefault(nodes.name_number(encoded), name) != name:
                raise ValueError(f"{name} has the number of another file")
            return Found(nodes.cgroup_node(hierarchy, number, encoded), found)
        except ValueError as error:
            raise OSError(errno.EOVERFLOW, str(error)) from error

    def _parts(self, node: int) -> tuple[str, int, int]:
        hierarchy, number, name = nodes.cgroup_of(node)
        key = self._keys.get(hierarchy)
        if key is None:
            raise Refused(errno.ESTALE)
        return key, number, name

    def _view(self, node: int, caller: CgroupCaller) -> tuple[CgroupView, str]:
        """Return the cgroup of a node as a caller sees it, and the file's name or ""."""
        key, number, name_number = self._parts(node)
        view = caller.view(key, number)
        if not name_number:
            return view, ""
        name = self._names.get(name_number)
        if name is None:  # the node is from a server before this one
            name = self._names.setdefault(name_number, _file_name(view, name_number))
        return view, name

    # -- files -----------------------------------------------------------------------------------

    def open(self, node: int, caller: CgroupCaller, flags: int) -> Opened:
        """Check that a caller may open a file; return what `keep_open` takes."""
        view, name = self._view(node, caller)
        writes = flags & os.O_ACCMODE != os.O_RDONLY
        view.check_open(name, write=writes)
        return Opened(caller.key, caller.rights if writes else None)

    def keep_open(self, handle: int, opened: Opened) -> None:
        """Note a file that is open, until `release`. Does not block."""
        if opened.rights is None:
            return
        with self._lock:
            count = self._counts.get(opened.key, 0)
            if count >= _MOST_WRITERS:
                raise Refused(errno.ENFILE)
            self._counts[opened.key] = count + 1
            self._writers[handle] = opened

    def read(self, context: RequestContext, caller: CgroupCaller) -> Text:
        """Return the text of a file, which `keep_text` takes.

        That which the handle began to read in pieces, unless it was made for a reader with other
        namespaces, to which a descriptor was passed: it has pids.
        """
        kept = self._texts.get(context.handle) if context.offset else None
        if kept is not None and kept.rights == caller.rights:
            return kept
        view, name = self._view(context.node, caller)
        return Text(caller.key, caller.rights, view.read(name))

    def keep_text(self, context: RequestContext, text: Text) -> None:
        """Keep a text that is read in pieces, if there is room: else it is made again.

        Until the next read at offset 0, or `release`. Does not block.
        """
        with self._lock:
            self._texts.pop(context.handle, None)
            if len(text.text) > context.size:
                held = sum(
                    max(len(kept.text), _LEAST)
                    for kept in self._texts.values()
                    if kept.key == text.key
                )
                if held + max(len(text.text), _LEAST) <= _MOST_TEXTS:
                    self._texts[context.handle] = text

    def write(self, context: RequestContext, caller: CgroupCaller, data: bytes) -> None:
        """Write as the opener of a handle.

        A program with more rights that was given the file as its output must not lend those to the
        one that opened it. So EACCES where the writer's rights or namespaces are others, and ESTALE
        where an earlier server has opened it. (With asynchronous I/O the writer need not wait. So
        it may be a program with other rights by now, and its pid another's, and become so later:
        `write` of the view is done with the rights that are compared here, or not at all.)
        """
        opened = self._writers.get(context.handle)
        if opened is None:
            raise Refused(errno.ESTALE)
        if opened.rights != caller.rights:
            raise Refused(errno.EACCES)
        view, name = self._view(context.node, caller)
        view.write(name, data)

    def is_open(self, handle: int) -> bool:
        """Return whether something is kept for a handle."""
        return handle in self._writers or handle in self._texts

    def release(self, handle: int) -> None:
        """Forget a handle. Does not block."""
        with self._lock:
            self._texts.pop(handle, None)
            opened = self._writers.pop(handle, None)
            if opened is not None:
                self._counts[opened.key] -= 1
                if not self._counts[opened.key]:
                    del self._counts[opened.key]

    # -- what changes ----------------------------------------------------------------------------

    def mkdir(self, parent: int, name: bytes, caller: CgroupCaller, mode: int) -> Found:
        """Make a cgroup."""
        view, _ = self._view(parent, caller)
        view.mkdir(os.fsdecode(name), stat.S_IMODE(mode))
        return self.lookup(parent, name, caller)

    def rmdir(self, parent: int, name: bytes, caller: CgroupCaller) -> None:
        """Remove a cgroup."""
        view, _ = self._view(parent, caller)
        view.rmdir(os.fsdecode(name))

    def chmod(self, node: int, caller: CgroupCaller, mode: int) -> None:
        """Change a mode."""
        view, name = self._view(node, caller)
        view.chmod(name, stat.S_IMODE(mode))

    def chown(self, node: int, caller: CgroupCaller, uid: int, gid: int) -> None:
        """Change an owner or a group; -1 leaves it."""
        view, name = self._view(node, caller)
        view.chown(name, uid, gid)


def _file_name(view: CgroupView, number: int) -> str:
    """Return the name of the file with that name number in a cgroup. Raise OSError(ESTALE)."""
    for _, name, found in view.entries(0):
        if not stat.S_ISDIR(found.st_mode) and nodes.name_number(os.fsencode(name)) == number:
            return name
    raise OSError(errno.ESTALE, "the file is gone")
