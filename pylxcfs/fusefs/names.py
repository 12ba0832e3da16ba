"""What names mean: LOOKUP, READLINK and listings, for whoever asks.

The host's sysfs and the containers in by-pidns/ are looked up, the rest is tree.py's. Contents
and attributes are filesystem.py's.
"""

from __future__ import annotations

import errno
import os
import stat

from pylxcfs.fusefs import nodes
from pylxcfs.fusefs.callers import Callers
from pylxcfs.fusefs.contents import Contents
from pylxcfs.fusefs.nodes import SYSFS
from pylxcfs.fusefs.refusal import Refused
from pylxcfs.fusefs.systree import Entry
from pylxcfs.fusefs.tree import Tree


class Names:
    """The names of one mount."""

    def __init__(self, tree: Tree, contents: Contents, callers: Callers) -> None:
        self._tree = tree
        self._contents = contents
        self._callers = callers

    def lookup(self, parent: int, name: bytes, pid: int) -> int:
        """Return the node id of a name. Raise Refused."""
        self._callers.refresh()
        index = nodes.index_of(parent)
        owner = nodes.pair_of(parent)
        if index >= SYSFS:
            path = f"{self._path(index)}/{os.fsdecode(name)}"
            child = self._tree.sysfs.index(path)
            if child is None or self._contents.hidden(path, self._callers.container(owner, pid)):
                raise Refused(errno.ENOENT)
        elif index == nodes.BY_PIDNS and name != b"self":
            return self._lookup_owner(name, pid)
        else:
            child = self._tree.child(index, name)
            if child is None:
                raise Refused(errno.ENOENT)
        return nodes.node(owner, child)

    def _lookup_owner(self, name: bytes, pid: int) -> int:
        who = nodes.parse_name(name)
        if who is None:
            raise Refused(errno.ENOENT)
        owner = nodes.pair(who)
        # Somebody else's directory is there if its container is.
        theirs = owner not in (self._callers.host, self._callers.owner(pid))
        if theirs and self._callers.containers.get(who, 0) is None:
            raise Refused(errno.ENOENT)
        return nodes.node(owner, nodes.OWN_ROOT)

    def readlink(self, node: int, pid: int) -> bytes:
        """Return a symlink's target, for this caller where it is ours. Raise Refused."""
        self._callers.refresh()
        index = nodes.index_of(node)
        if index >= SYSFS:
            try:
                return self._tree.sysfs.readlink(self._path(index))
            except OSError as error:
                raise Refused(error.errno or errno.EIO) from error
        who = nodes.unpack(self._callers.owner(pid) or self._callers.host)
        self._callers.containers.expect(who, pid)
        try:
            return self._tree.link_target(index, nodes.name(who))
        except KeyError:
            raise Refused(errno.EINVAL) from None

    def entries(self, node: int, pid: int) -> list[Entry]:
        """List a directory: names with the node ids that `lookup` gives them. Raise Refused."""
        self._callers.refresh()
        index = nodes.index_of(node)
        owner = nodes.pair_of(node)
        if index >= SYSFS:
            found = self._sysfs_entries(self._path(index), owner, pid)
        elif self._tree.is_directory(index):
            found = self._tree.children(index)
        else:
            raise Refused(errno.ENOTDIR)
        entries = [Entry(e.name, nodes.node(owner, e.number), e.mode) for e in found]
        if index == nodes.BY_PIDNS:
            for theirs in sorted({self._callers.host, *self._callers.known()}):
                directory = nodes.node(theirs, nodes.OWN_ROOT)
                name = nodes.name(nodes.unpack(theirs))
                entries.append(Entry(name, directory, stat.S_IFDIR | 0o555))
        return entries

    def _sysfs_entries(self, path: str, owner: int, pid: int) -> list[Entry]:
        try:
            found = self._tree.sysfs.entries(path)
        except OSError as error:
            raise Refused(error.errno or errno.EIO) from error
        container = self._callers.container(owner, pid)
        return [
            entry
            for entry in found
            if not self._contents.hidden(f"{path}/{os.fsdecode(entry.name)}", container)
        ]

    def _path(self, index: int) -> str:
        path = self._tree.sysfs.path(index)
        if path is None:
            raise Refused(errno.ESTALE)
        return path
