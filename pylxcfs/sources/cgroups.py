"""The mounted cgroup hierarchies, and the directories of a process's cgroups.

    v1      a hierarchy for each controller or a few of them
    v2      one hierarchy for all
    hybrid  both; a controller belongs to one of them: v2 if v2 lists it, else v1

Knows paths, not the files' meaning (v1.py, v2.py), and no container.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar
from weakref import WeakValueDictionary

from pylxcfs.errors import Gone, SourceError
from pylxcfs.formats import mountinfo, pidcgroup, pidstat
from pylxcfs.formats.mountinfo import Mount
from pylxcfs.formats.pidcgroup import UNIFIED
from pylxcfs.sources.kept import KeptFile, SharedFile, read_optional, read_whole, translate
from pylxcfs.sources.settings import Setting, Writes

_T = TypeVar("_T")

#: Path of a process by controller, as pidcgroup.parse returns it.
Paths = Mapping[str, str]

#: The cgroup into which systemd inside a container moves itself; its limits are its parent's.
_INIT_SCOPE = "/init.scope"

#: v1's names of controllers that have another one on v2. cpuacct is in v2's core (cpu.stat).
_V2_NAMES = {"blkio": "io", "cpuacct": UNIFIED}

#: Controllers of which v2 must have one for runtimes to make a v2 cgroup for each container.
_V2_MAIN = frozenset({"cpu", "memory", "pids"})

#: Levels that count at either end of a path. Deeper nesting happens below a delegated cgroup:
#: the levels left out are limits that its owner set for itself, and each costs files to read and
#: to watch, of which an owner could demand any number.
_MOST_LEVELS = 64

#: v1 hierarchies in the order in which they are likely to tell a container from its host.
_V1_HIERARCHIES = ("pids", "memory", "cpu", "cpuacct", "freezer", "name=systemd", "devices")

#: Superblock options of a v1 mount that are not controllers.
_NOT_CONTROLLERS = frozenset(
    {"rw", "ro", "xattr", "noprefix", "clone_children", "none", "cpuset_v2_mode", "favordynmods"}
)
_RELEASE_AGENT = "release_agent="


class Origin(NamedTuple):
    """The file that a value was read from."""

    path: str
    #: 0: the cgroup's own directory, 1: its parent's, and so on.
    level: int


@dataclass(frozen=True, slots=True)
class Place:
    """The directory of one cgroup in the hierarchy of one controller."""

    version: int
    #: The cgroup's own directory, then its ancestors' up to what is mounted.
    directories: tuple[str, ...]
    #: Whether the last directory is the hierarchy's root, which limits nothing.
    up_to_root: bool

    @property
    def own(self) -> str:
        """The cgroup's own directory."""
        return self.directories[0]

    @property
    def is_root(self) -> bool:
        """Whether it is the root itself, which counts the whole machine."""
        return self.up_to_root and len(self.directories) == 1

    @property
    def limiting(self) -> tuple[str, ...]:
        """The directories that may limit its processes."""
        return self.directories[:-1] if self.up_to_root else self.directories

    def above(self, directory: str) -> tuple[str, ...]:
        """Return the directories above one of them that may limit its processes."""
        return self.limiting[self.directories.index(directory) + 1 :]

    def origin(self, directory: str, name: str) -> Origin:
        """Return the origin of a value in file `name` of one of the directories."""
        return Origin(f"{directory}/{name}", self.directories.index(directory))

    def nearest(self, name: str) -> str | None:
        """Return the closest of the directories that has file `name`."""
        for directory in self.directories:
            if os.path.exists(f"{directory}/{name}"):
                return directory
        return None


class Hierarchies:
    """The cgroup hierarchies that are mounted here."""

    def __init__(self, v1: Mapping[str, Mount], v2: Mount | None, root: str = "/") -> None:
        self.v1 = v1
        self.v2 = v2
        self.root = root
        listed = read_optional(f"{v2.mountpoint}/cgroup.controllers") if v2 else None
        self._v2_controllers = frozenset(os.fsdecode(listed or b"").split())
        # On most hybrid hosts v2 is there for systemd alone, and a container's v2 cgroup is that
        # of the container engine.
        self._v2_tells = not v1 or not _V2_MAIN.isdisjoint(self._v2_controllers)
        # Many containers have the same ancestors: one descriptor for all.
        self._shared: WeakValueDictionary[str, SharedFile] = WeakValueDictionary()
        #: Writes to the files that settings are made of.
        self.writes = Writes()

    @classmethod
    def discover(cls, root: str = "/") -> Hierarchies:
        """Find them in /proc/self/mountinfo below `root`. Raise SourceError, FormatError."""
        v1: dict[str, Mount] = {}
        v2: Mount | None = None
        base = root.rstrip("/")
        try:
            text = read_whole(f"{base}/proc/self/mountinfo")
        except Gone as error:  # this process has not ended
            raise SourceError(f"{error}; is {base}/proc mounted?") from None
        for found in mountinfo.parse(text, "cgroup"):
            mount = found._replace(mountpoint=base + found.mountpoint)
            if mount.fstype == "cgroup2":
                v2 = _wider(v2, mount)
            elif mount.fstype == "cgroup":
                for name in mount.options:
                    if name not in _NOT_CONTROLLERS and not name.startswith(_RELEASE_AGENT):
                        v1[name] = _wider(v1.get(name), mount)
        return cls(v1, v2, root)

    def paths_of(self, pid: int) -> Paths:
        """Return the cgroups of a process. Gone if it has ended."""
        return self.paths_in(read_whole(self.cgroup_file(pid)))

    def paths_in(self, text: bytes) -> Paths:
        """Return the cgroups that /proc/PID/cgroup names, as a container's init has them.

        Gone if its v2 cgroup was removed.
        """
        paths = pidcgroup.parse(text)
        unified = paths.get(UNIFIED, "")
        if unified.endswith(pidcgroup.DELETED) and not self._lives(unified):
            raise Gone(f"cgroup {unified}")
        return {name: _strip(path) for name, path in paths.items()}

    def _lives(self, path: str) -> bool:
        """Return whether a path that ends as the kernel marks removed ones is a cgroup's name."""
        place = _place(2, self.v2, path) if self.v2 is not None else None
        return place is not None and os.path.isdir(place.own)

    def living(self, pid: int, text: bytes) -> bytes:
        """Return `text`, of /proc/PID/cgroup, or that of a thread of the process that lives.

        The main thread may end before others, and v1 prints "/" for it then. Raise Gone if all
        have ended.
        """
        if not pidcgroup.may_have_ended(text):
            return text
        base = os.path.join(self.root, f"proc/{pid}")
        # Read after the text: a thread that is not ending had not left its cgroups.
        if not _is_ending(base):
            return text
        try:
            threads = os.listdir(f"{base}/task")
        except OSError as error:
            raise translate(error, f"{base}/task") from None
        for thread in threads:
            with contextlib.suppress(Gone):
                text = read_whole(f"{base}/task/{thread}/cgroup")
                if not _is_ending(f"{base}/task/{thread}"):
                    return text
        raise Gone(f"{base}/task: all threads have ended")

    def cgroup_file(self, pid: int) -> str:
        """Return the path of /proc/PID/cgroup below the root."""
        return os.path.join(self.root, f"proc/{pid}/cgroup")

    def place(self, controller: str, paths: Paths) -> Place | None:
        """Return the place of a process with these paths for `controller`.

        `controller` is a v1 name. None where no hierarchy has the controller, or the path is
        outside of what is mounted.
        """
        name = _V2_NAMES.get(controller, controller)
        if self.v2 is not None and name in self._v2_controllers:
            return _place(2, self.v2, paths.get(UNIFIED))
        mount = self.v1.get(controller)
        if mount is not None:
            return _place(1, mount, paths.get(controller))
        return self.unified(paths) if name == UNIFIED else None

    def unified(self, paths: Paths) -> Place | None:
        """Return the place in the v2 hierarchy.

        None where that does not tell containers apart.
        """
        return self.in_v2(paths) if self._v2_tells else None

    def in_v2(self, paths: Paths) -> Place | None:
        """Return the place in the v2 hierarchy, also where it tells no containers apart."""
        return _place(2, self.v2, paths.get(UNIFIED)) if self.v2 is not None else None

    def named(self, hierarchy: str, paths: Paths) -> Place | None:
        """Return the place in one v1 hierarchy ("pids", "name=systemd")."""
        mount = self.v1.get(hierarchy)
        return _place(1, mount, paths.get(hierarchy)) if mount is not None else None

    def thread_place(self, paths: Paths) -> Place | None:
        """Return the place where a container's threads are listed.

        None where no hierarchy tells it from the host.
        """
        place = self.unified(paths)
        if place is not None and not place.is_root:
            return place
        for name in _V1_HIERARCHIES:
            place = self.named(name, paths)
            if place is not None and not place.is_root:
                return place
        return None

    def shared(self, path: str) -> KeptFile:
        """Return the kept file of `path` that all containers share."""
        kept = self._shared.get(path)
        if kept is None:
            kept = SharedFile(path)
            self._shared[path] = kept
        return kept

    def setting(self, files: Sequence[KeptFile], compute: Callable[[], _T]) -> Setting[_T]:
        """Return the value that `compute` makes of `files`, which only writes change."""
        return Setting(self.writes, files, compute)


def _strip(path: str) -> str:
    if path.endswith(_INIT_SCOPE):
        return path[: -len(_INIT_SCOPE)] or "/"
    return path


def _wider(known: Mount | None, mount: Mount) -> Mount:
    """Return the mount that shows more of the hierarchy, or the first."""
    return mount if known is None or len(mount.root) < len(known.root) else known


def names_in(mount: Mount, path: str | None) -> list[str] | None:
    """Return the names of a cgroup's path below what is mounted; None outside of that."""
    base = mount.root.rstrip("/")
    if path is None or (path != base and not path.startswith(base + "/")):
        return None
    names = [name for name in path[len(base) :].split("/") if name]
    return None if ".." in names else names  # "..": outside of the server's cgroup namespace


def _place(version: int, mount: Mount, path: str | None) -> Place | None:
    names = names_in(mount, path)
    if names is None:
        return None
    # By number of names, from the cgroup itself up.
    levels = list(range(len(names), -1, -1))
    if len(levels) > 2 * _MOST_LEVELS:
        levels[_MOST_LEVELS:-_MOST_LEVELS] = []
    directories = tuple("/".join([mount.mountpoint, *names[:level]]) for level in levels)
    return Place(version, directories, _is_real_root(version, mount.mountpoint))


@functools.cache
def _is_real_root(version: int, directory: str) -> bool:
    """Return whether a mountpoint is the hierarchy's root.

    Inside of a container a cgroup is mounted in its place.
    """
    if version == 1:
        return os.path.exists(f"{directory}/release_agent")
    return not os.path.exists(f"{directory}/cgroup.events")


def _is_ending(directory: str) -> bool:
    """Return whether the thread with this directory in /proc ends, or has ended."""
    return bool(pidstat.parse(read_whole(f"{directory}/stat")).flags & pidstat.EXITING)
