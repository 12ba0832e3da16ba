"""The host's trees of sysfs as nodes: paths to file indexes and back.

    sys/devices/system/{cpu,node,memory}      always
    sys/class/..., sys/block, sys/dev/...     with --enable-devices: nodes.DEVICES_OF_SYSFS

The index of a file is its sysfs inode number (kernfs numbers them once and keeps them for the
life of the entry, fs/kernfs/dir.c), so it survives a restart of the server. Numbers that do not
fit, which only hotplug after millions of sysfs entries makes, get one for as long as this
process lives: a few thousand paths, and further ones are not there. Serves no contents and hides
nothing; that is contents.py and, behind it, views/sys*.py.
"""

from __future__ import annotations

import os
import stat
from typing import Final, NamedTuple

from pylxcfs.tree.nodes import DEVICES_OF_SYSFS, INDEX_LIMIT, SYSFS

CPU: Final = "sys/devices/system/cpu"
NODE: Final = "sys/devices/system/node"
MEMORY: Final = "sys/devices/system/memory"
TREES: Final = (CPU, NODE, MEMORY)

#: Indexes kept for inode numbers that do not fit.
_SPARE: Final = 4096


class Entry(NamedTuple):
    """A directory entry: name, file index (or node id), st_mode."""

    name: bytes
    number: int
    mode: int


class SysTree:
    """The trees below `root`, as far as this host has them; with `devices` theirs, too."""

    def __init__(self, root: str = "/", *, devices: bool = False) -> None:
        self._root = root
        self._trees = TREES + (DEVICES_OF_SYSFS if devices else ())
        self._paths: dict[int, str] = {}
        self._spare: dict[str, int] = {}

    def roots(self) -> dict[str, int]:
        """Return the indexes of the trees that this host has."""
        return {path: index for path in self._trees if (index := self.index(path)) is not None}

    def index(self, path: str) -> int | None:
        """Return the index of a path, None if the host has no such file, or no index is left."""
        try:
            return self._number(path, os.lstat(self._host(path)).st_ino)
        except OSError:
            return None

    def path(self, index: int) -> str | None:
        """Return the path of an index, looking through the trees if it is not known yet."""
        for tree in self._trees:
            if index in self._paths:
                break
            self._walk(tree)
        return self._paths.get(index)

    def lstat(self, path: str) -> os.stat_result:
        """Return lstat(2) of the host's file. Raise OSError as it does."""
        return os.lstat(self._host(path))

    def readlink(self, path: str) -> bytes:
        """Return the target of the host's symlink. Raise OSError as readlink(2) does."""
        return os.fsencode(os.readlink(self._host(path)))

    def entries(self, path: str) -> list[Entry]:
        """List a directory. Raise OSError as readdir(3) does."""
        found = []
        with os.scandir(self._host(path)) as scan:
            for item in scan:
                mode = stat.S_IFDIR if item.is_dir(follow_symlinks=False) else stat.S_IFREG
                if item.is_symlink():
                    mode = stat.S_IFLNK
                child = f"{path}/{item.name}"
                index = self._number(child, item.inode())
                if index is not None:
                    found.append(Entry(os.fsencode(item.name), index, mode))
        return found

    def _host(self, path: str) -> str:
        return os.path.join(self._root, path)

    def _number(self, path: str, inode: int) -> int | None:
        index = SYSFS + inode
        if index >= INDEX_LIMIT - _SPARE:
            # None is given twice: the kernel may hold the node of a path that is gone.
            if path not in self._spare and len(self._spare) >= _SPARE:
                return None
            index = self._spare.setdefault(path, INDEX_LIMIT - 1 - len(self._spare))
        self._paths[index] = path
        return index

    def _walk(self, path: str) -> None:
        try:
            entries = self.entries(path)
        except OSError:
            return
        for entry in entries:
            if stat.S_ISDIR(entry.mode):
                self._walk(f"{path}/{os.fsdecode(entry.name)}")
