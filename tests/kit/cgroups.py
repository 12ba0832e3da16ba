"""Real cgroups for tests, on v1, v2 and hybrid hosts.

A cgroup has one directory in each hierarchy. A controller is used where the host has it: on its v1
hierarchy if that is mounted, else on v2. The names of cgroups come from `run_name`. Views and
policy are not part of this module.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache, partial
from pathlib import Path

from tests.conftest import run_name, wait_until

V1_CONTROLLERS = ("memory", "cpu", "cpuacct", "cpuset", "pids", "blkio", "devices")
V2_CONTROLLERS = ("memory", "cpu", "cpuset", "pids", "io")
#: Period of CPU quotas, microseconds: the kernel's default.
PERIOD_US = 100_000
#: Shell: mounts what a runtime does, the container's own cgroups at the top of each hierarchy, and
#: goes on as its arguments. $V1: the hierarchies of v1, by name.
RUNTIME_MOUNTS = """
umount -R /sys/fs/cgroup
if [ -z "$V1" ]; then
    mount -t cgroup2 none /sys/fs/cgroup
else
    mount -t tmpfs none /sys/fs/cgroup
    for name in $V1; do
        mkdir /sys/fs/cgroup/$name && mount -t cgroup -o $name none /sys/fs/cgroup/$name
    done
fi
exec "$@"
"""
_serial = itertools.count()


class Keep(Enum):
    """Leave a limit as it is (`None` means: no limit)."""

    KEEP = "keep"


KEEP = Keep.KEEP


@dataclass(frozen=True)
class Hierarchy:
    """A mounted hierarchy, and this process's cgroup. No controllers: v2."""

    mountpoint: Path
    controllers: frozenset[str]
    current: Path


@cache
def hierarchies() -> tuple[Hierarchy, ...]:
    """Return the mounted hierarchies; v2 is the one without controllers."""
    own: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            own[name] = path
    found: dict[str, Hierarchy] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        fstype, _, options = right.split(" ", 2)
        root, mountpoint = left.split(" ")[3:5]
        if fstype == "cgroup":
            names = frozenset(options.split(",")) & frozenset(V1_CONTROLLERS)
            if not names:
                continue
        elif fstype == "cgroup2":
            names = frozenset()
        else:
            continue
        path = own.get(min(names, default=""), "/")
        current = Path(mountpoint) / os.path.relpath(path, root)
        found.setdefault(",".join(sorted(names)), Hierarchy(Path(mountpoint), names, current))
    return tuple(found.values())


def is_v2() -> bool:
    """Return whether v2 has the memory and CPU controllers."""
    return not any("memory" in hierarchy.controllers for hierarchy in hierarchies())


def current_procs() -> tuple[Path, ...]:
    """Return the cgroup.procs files of this process's cgroups."""
    return tuple(hierarchy.current / "cgroup.procs" for hierarchy in hierarchies())


def _v2_parent(hierarchy: Hierarchy) -> Path:
    """Return the nearest cgroup at or above ours with controllers for children.

    A v2 cgroup with processes cannot have any (no internal processes), and ours has one. The root
    always can.
    """
    place = hierarchy.current
    while place != hierarchy.mountpoint:
        if "memory" in (place / "cgroup.subtree_control").read_text().split():
            return place
        place = place.parent
    return place


def _enable(directory: Path) -> None:
    available = (directory / "cgroup.controllers").read_text().split()
    for name in V2_CONTROLLERS:
        if name in available:
            (directory / "cgroup.subtree_control").write_text(f"+{name}")


class Cgroup:
    """A cgroup in every hierarchy; `with` removes it, `parent` nests it."""

    def __init__(self, *, parent: Cgroup | None = None, name: str | None = None) -> None:
        self.name = name or run_name(str(next(_serial)))
        #: By controller name; v2 itself is under "".
        self.paths: dict[str, Path] = {}
        self._directories: list[Path] = []
        for hierarchy in hierarchies():
            if parent is not None:
                above = parent.paths[min(hierarchy.controllers, default="")]
            elif hierarchy.controllers:
                above = hierarchy.current
            else:
                above = _v2_parent(hierarchy)
            self._make(hierarchy, above)

    def _make(self, hierarchy: Hierarchy, above: Path) -> None:
        directory = above / self.name
        if not hierarchy.controllers:
            _enable(above)
        directory.mkdir()
        self._directories.append(directory)
        for name in hierarchy.controllers or ("",):
            self.paths[name] = directory
        if "cpuset" in hierarchy.controllers:
            # v1: a new cpuset is empty and accepts no processes.
            for name in ("cpuset.cpus", "cpuset.mems"):
                (directory / name).write_text((above / name).read_text())

    @property
    def procs(self) -> tuple[Path, ...]:
        """The cgroup.procs files of this cgroup."""
        return tuple(directory / "cgroup.procs" for directory in self._directories)

    def directory(self, controller: str) -> Path:
        """Return the directory of `controller` (its v1 name)."""
        return self.paths.get(controller) or self.paths[""]

    def write(self, controller: str, v1: str, v2: str, value: object) -> None:
        """Write a limit under its v1 or v2 name."""
        directory = self.directory(controller)
        name = v1 if controller in self.paths else v2
        (directory / name).write_text(str(value))

    def limits(
        self,
        *,
        memory: int | Keep | None = KEEP,
        swap: int | Keep | None = KEEP,
        cpus: float | Keep | None = KEEP,
        cpuset: str | Keep = KEEP,
        mems: str | Keep = KEEP,
    ) -> None:
        """Set limits: bytes of memory and swap, CPUs of quota, lists.

        `cpuset` is a list of CPUs, `mems` one of nodes. On v1 `swap` needs the memory limit in the
        same call, since its limit is for both.
        """
        if memory is not KEEP:
            v1_none = "memory" in self.paths and memory is None
            value = -1 if v1_none else "max" if memory is None else memory
            self.write("memory", "memory.limit_in_bytes", "memory.max", value)
        if swap is not KEEP:
            self._limit_swap(memory, swap)
        if cpus is not KEEP:
            if "cpu" in self.paths:
                quota = -1 if cpus is None else int(cpus * PERIOD_US)
                (self.paths["cpu"] / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (self.paths["cpu"] / "cpu.cfs_quota_us").write_text(str(quota))
            else:
                part = "max" if cpus is None else str(int(cpus * PERIOD_US))
                (self.paths[""] / "cpu.max").write_text(f"{part} {PERIOD_US}")
        if cpuset is not KEEP:
            self.write("cpuset", "cpuset.cpus", "cpuset.cpus", cpuset)
        if mems is not KEEP:
            self.write("cpuset", "cpuset.mems", "cpuset.mems", mems)

    def _limit_swap(self, memory: int | Keep | None, swap: int | Keep | None) -> None:
        if "memory" not in self.paths:
            value = "max" if swap is None else swap
            (self.paths[""] / "memory.swap.max").write_text(str(value))
            return
        assert isinstance(memory, int)
        assert isinstance(swap, int)
        path = self.paths["memory"] / "memory.memsw.limit_in_bytes"
        path.write_text(str(memory + swap))

    def stat(self, controller: str, name: str) -> Mapping[str, int]:
        """Read a file of `key value` lines: memory.stat, cpu.stat."""
        text = (self.directory(controller) / name).read_text()
        return {key: int(value) for key, value in (line.split() for line in text.splitlines())}

    def pids(self) -> set[int]:
        """Return the pids of its processes."""
        found: set[int] = set()
        for path in self.procs:
            with contextlib.suppress(FileNotFoundError):
                found.update(int(pid) for pid in path.read_text().split())
        return found

    def command(self, argv: Sequence[str]) -> list[str]:
        """Wrap a command so that it runs in this cgroup."""
        enter = "".join(f"echo 0 >{shlex.quote(str(path))} && " for path in self.procs)
        return ["sh", "-c", enter + 'exec "$@"', "enter", *argv]

    def run(self, argv: Sequence[str], *, timeout: float = 60, check: bool = True) -> bytes:
        """Run a command in this cgroup only; return its output."""
        done = subprocess.run(
            self.command(argv), capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL
        )
        if check and done.returncode:
            raise AssertionError(f"{argv} exits {done.returncode}: {done.stderr.decode()}")
        return done.stdout

    def remove(self) -> None:
        """Kill its processes, wait for their end, and remove it."""
        for pid in self.pids():
            if pid:  # 0: a process that this pid namespace cannot see
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for directory in reversed(self._directories):
            remove_directory(directory)

    def __enter__(self) -> Cgroup:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def remove_directory(directory: Path) -> None:
    """Remove a cgroup as soon as it has no processes."""
    wait_until(partial(_removed, directory), 60, what=f"an empty {directory}")


def _removed(directory: Path) -> bool:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True
