"""Names, modes and listings: which node has which children, and where links lead.

    proc/NAME, proc/pressure, sys/devices/system/{cpu,node,memory}    links, the same for all
    sys/class/NAME, sys/block and others, with --enable-devices       links, too
    own/KEY/...  and the caller mount                                 one view: proc/, sys/...
    cgroup                                          link to cgroup/ of the caller mount: cgroup.py

A function of names and numbers, and of the host's sysfs (sysfs.py). Contents are contents.py's,
keys callers.py's.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Sequence
from typing import Final

from pylxcfs.errors import Refused, SourceError
from pylxcfs.tree import nodes
from pylxcfs.tree.cgroup import CgroupTree
from pylxcfs.tree.contents import Contents
from pylxcfs.tree.sysfs import Entry
from pylxcfs.units import NS_PER_S
from pylxcfs.views.model import Container

DIRECTORY: Final = stat.S_IFDIR | 0o555
LINK: Final = stat.S_IFLNK | 0o777
#: How long a listing of sysfs is shown, and how many are kept.
_LISTING_S: Final = 1.0
_MOST_LISTINGS: Final = 256
#: For how long the kernel may believe a name; CPUs come and go below sys/devices/system.
_NAME_NS: Final = 60 * NS_PER_S
_SYSFS_NAME_NS: Final = NS_PER_S


class Names:
    """Names of both mounts; `served[i]` says whether the host has the file of view i."""

    def __init__(
        self, contents: Contents, served: Sequence[bool], cgroup: CgroupTree | None = None
    ) -> None:
        self._contents = contents
        self._sysfs = contents.sysfs
        #: Listings of sysfs, all of the last second: a listing is read in several requests.
        self._listings: dict[tuple[int, Container | None], list[Entry]] = {}
        self._listed = 0.0
        files = {view.path: nodes.FILES + i for i, view in enumerate(contents.views) if served[i]}
        #: Names outside of sysfs, and where each link leads inside of a view.
        self._children, self.links = nodes.names(files | self._sysfs.roots())
        self._cgroup_links: dict[int, bytes] = {}
        if cgroup is not None:
            self._children[nodes.ROOT][b"cgroup"] = nodes.CGROUP_LINK
            self._children[nodes.VIEW_ROOT][b"cgroup"] = nodes.CGROUP
            self._children[nodes.CGROUP] = cgroup.children
            self._cgroup_links = cgroup.links
            self.links[nodes.CGROUP_LINK] = "cgroup"
        self.forget_modes()

    def child(self, index: int, name: bytes, container: Container | None) -> int:
        """Return the index of a name in a directory. Raise Refused.

        `container`: names of sysfs that are hidden from it do not exist.
        """
        if index < nodes.SYSFS:
            child = self._children.get(index, {}).get(name)
        else:
            path = f"{self._path(index)}/{os.fsdecode(name)}"
            child = None if self._contents.hidden(path, container) else self._sysfs.index(path)
        if child is None:
            raise Refused(errno.ENOENT)
        return child

    def children(self, index: int, container: Container | None) -> list[Entry]:
        """List a directory, without keys in own/. Raise Refused."""
        if index < nodes.SYSFS:
            found = self._children.get(index)
            if found is None:
                raise Refused(errno.ENOTDIR)
            return [Entry(name, child, self.mode(child)) for name, child in found.items()]
        now = time.monotonic()
        if now - self._listed > _LISTING_S or len(self._listings) >= _MOST_LISTINGS:
            self._listings, self._listed = {}, now
        listing = self._listings.get((index, container))
        if listing is None:
            listing = self._listings[index, container] = self._list(index, container)
        return listing

    def _list(self, index: int, container: Container | None) -> list[Entry]:
        path = self._path(index)
        try:
            entries = self._sysfs.entries(path)
        except OSError as error:
            raise Refused(error.errno or errno.EIO) from error
        return [
            entry
            for entry in entries
            if not self._contents.hidden(f"{path}/{os.fsdecode(entry.name)}", container)
        ]

    @staticmethod
    def valid_ns(index: int) -> int:
        """Return for how long the kernel may believe the name of an index."""
        return _NAME_NS if index < nodes.SYSFS else _SYSFS_NAME_NS

    def mode(self, index: int) -> int:
        """Return st_mode of an index, never writable. Raise Refused(ESTALE) if it is gone."""
        mode = self._modes.get(index)
        if mode is None:
            try:
                mode = self._sysfs.lstat(self._contents.path(index)).st_mode
            except (OSError, SourceError) as error:
                raise Refused(errno.ESTALE) from error
            if not stat.S_ISLNK(mode):
                mode &= ~0o222
            self._modes[index] = mode
        return mode

    def forget_modes(self) -> None:
        """Read modes of host files again: CPUs may have come or gone."""
        self._modes = dict.fromkeys(self._children, DIRECTORY) | dict.fromkeys(self.links, LINK)
        self._modes |= dict.fromkeys(self._children.get(nodes.CGROUP, {}).values(), DIRECTORY)
        self._modes |= dict.fromkeys(self._cgroup_links, LINK)

    def target(self, index: int) -> bytes:
        """Return the target of a link of the host's sysfs, or of cgroup/. Raise Refused."""
        if index < nodes.SYSFS:
            link = self._cgroup_links.get(index)
            if link is None:
                raise Refused(errno.EINVAL)
            return link
        try:
            return self._sysfs.readlink(self._path(index))
        except OSError as error:
            raise Refused(error.errno or errno.EIO) from error

    def _path(self, index: int) -> str:
        path = self._sysfs.path(index)
        if path is None:
            raise Refused(errno.ESTALE)
        return path
