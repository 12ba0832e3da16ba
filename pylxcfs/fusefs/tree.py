"""The names of the filesystem: which node has which children, and where its symlinks lead.

    proc/NAME, sys/devices/system/{cpu,node,memory}   symlinks, resolved for whoever asks
    by-pidns/NUMBER/proc/NAME                         the files of one container
    by-pidns/NUMBER/sys/devices/system/...            its trees, mirrored from the host
    by-pidns/self                                     symlink to the caller's own

Everything here is a function of names and numbers; contents are filesystem.py's, the host's
sysfs is systree.py's.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from typing import Final, Protocol

from pylxcfs.fusefs import nodes
from pylxcfs.fusefs.systree import CPU, MEMORY, NODE, Entry, SysTree

_DIR: Final = stat.S_IFDIR | 0o555
_LINK: Final = stat.S_IFLNK | 0o777
_FILE: Final = stat.S_IFREG | 0o444
_TREE_LINKS: Final = {CPU: nodes.CPU_LINK, NODE: nodes.NODE_LINK, MEMORY: nodes.MEMORY_LINK}


class Named(Protocol):
    """The part of a row of VIEWS that the tree needs."""

    @property
    def path(self) -> str: ...


class Tree:
    """Names of one mount; `served[i]` says whether view i is switched on."""

    def __init__(self, views: Sequence[Named], served: Sequence[bool], sysfs: SysTree) -> None:
        self.sysfs = sysfs
        self._paths = [view.path for view in views]
        shared: dict[int, dict[bytes, int]] = {
            nodes.ROOT: {b"proc": nodes.PROC, b"sys": nodes.SYS, b"by-pidns": nodes.BY_PIDNS},
            nodes.PROC: {},
            nodes.SYS: {b"devices": nodes.DEVICES},
            nodes.DEVICES: {b"system": nodes.SYSTEM},
            nodes.SYSTEM: {},
            nodes.BY_PIDNS: {b"self": nodes.SELF},
        }
        own: dict[int, dict[bytes, int]] = {
            nodes.OWN_ROOT: {b"proc": nodes.OWN_PROC, b"sys": nodes.OWN_SYS},
            nodes.OWN_PROC: {},
            nodes.OWN_SYS: {b"devices": nodes.OWN_DEVICES},
            nodes.OWN_DEVICES: {b"system": nodes.OWN_SYSTEM},
            nodes.OWN_SYSTEM: {},
        }
        self._targets: dict[int, str] = {nodes.SELF: ""}
        for i, path in enumerate(self._paths):
            if not served[i]:
                continue
            name = path.rpartition("/")[2].encode()
            in_pressure = path.startswith("proc/pressure/")
            if in_pressure:
                shared[nodes.PROC][b"pressure"] = nodes.PRESSURE
                own[nodes.OWN_PROC][b"pressure"] = nodes.OWN_PRESSURE
            here = nodes.PRESSURE if in_pressure else nodes.PROC
            shared.setdefault(here, {})[name] = nodes.LINKS + i
            own.setdefault(nodes.OWN_PRESSURE if in_pressure else nodes.OWN_PROC, {})[name] = (
                nodes.FILES + i
            )
            self._targets[nodes.LINKS + i] = path
        for path, index in sysfs.roots():
            name, link = path.rpartition("/")[2].encode(), _TREE_LINKS[path]
            shared[nodes.SYSTEM][name] = link
            own[nodes.OWN_SYSTEM][name] = index
            self._targets[link] = path
        self._children = shared | own

    def child(self, index: int, name: bytes) -> int | None:
        """Return the index of a child of a directory that is not part of sysfs or by-pidns."""
        return self._children.get(index, {}).get(name)

    def children(self, index: int) -> list[Entry]:
        """List a directory that is not part of sysfs, but for the containers in by-pidns."""
        return [
            Entry(name, child, self.mode(child)) for name, child in self._children[index].items()
        ]

    def is_directory(self, index: int) -> bool:
        """Whether an index below SYSFS is one of our directories."""
        return index in self._children

    def mode(self, index: int) -> int:
        """Return st_mode of what the tree itself names. Raise FileNotFoundError."""
        if index in self._children or index >= nodes.SYSFS:
            return _DIR
        if index in self._targets:
            return _LINK
        if nodes.FILES <= index < nodes.FILES + len(self._paths):
            return _FILE
        raise FileNotFoundError(index)

    def path(self, node: int) -> str | None:
        """Return the path of a file below the mountpoint; None for anything else."""
        index = nodes.index_of(node)
        if index < nodes.FILES:
            return None
        path = self.sysfs.path(index) if index >= nodes.SYSFS else self._paths[index - nodes.FILES]
        owner = nodes.name(nodes.unpack(nodes.pair_of(node))).decode()
        return None if path is None else f"by-pidns/{owner}/{path}"

    def link_target(self, index: int, owner_name: bytes) -> bytes:
        """Return where a symlink leads a caller whose directory is `owner_name`. Raise KeyError."""
        path = self._targets[index]
        if not path:
            return owner_name
        return b"../" * path.count("/") + b"by-pidns/" + owner_name + b"/" + path.encode()
