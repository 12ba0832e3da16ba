"""Made-up hosts for tests of sources: a root directory with mountinfo, cgroups and processes.

A cgroup hierarchy's root is told by the files that the kernel has only (v1), or never (v2), there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pylxcfs.sources.cgroups import Hierarchies

STAT = "42 (a (b) c) S 1 42 42 0 -1 {flags} 0 0 0 0 7 5 0 0 20 0 1 0 {start} 0 0 0\n"


class Tree:
    """A host below `root`. Cgroup directories are made with the files of `cgroup`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._mounts: list[str] = []
        self.write("proc/self/mountinfo", "")

    def write(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def v1(self, *controllers: str, mountpoint: str = "", root: str = "/") -> None:
        """Mount a v1 hierarchy."""
        names = ",".join(controllers)
        mountpoint = mountpoint or f"/sys/fs/cgroup/{names}"
        self._mount(f"9 1 0:9 {root} {mountpoint} rw - cgroup cgroup rw,{names}\n")
        if root == "/":
            self.write(f"{mountpoint[1:]}/release_agent", "")

    def v2(self, controllers: str, mountpoint: str = "/sys/fs/cgroup", root: str = "/") -> None:
        """Mount the v2 hierarchy."""
        self._mount(f"9 1 0:9 {root} {mountpoint} rw - cgroup2 cgroup2 rw\n")
        self.write(f"{mountpoint[1:]}/cgroup.controllers", f"{controllers}\n")

    def cgroup(self, directory: str, files: Mapping[str, str]) -> Path:
        """Make a cgroup below /sys/fs/cgroup."""
        path = self.root / "sys/fs/cgroup" / directory
        path.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (path / name).write_text(text)
        return path

    def process(self, pid: int | str, cgroup: str, start: int = 0, flags: int = 0) -> None:
        """Make a process, or "PID/task/TID", a thread."""
        self.write(f"proc/{pid}/cgroup", cgroup)
        self.write(f"proc/{pid}/stat", STAT.format(start=start, flags=flags))

    def hierarchies(self) -> Hierarchies:
        return Hierarchies.discover(str(self.root))

    def _mount(self, line: str) -> None:
        self._mounts.append(line)
        self.write("proc/self/mountinfo", "".join(self._mounts))
