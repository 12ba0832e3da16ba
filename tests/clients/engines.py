"""What the engines' tests share: a root filesystem of BusyBox, and the report of a container.

Every engine's container gets 64 MiB and one CPU and runs REPORT; `check_report` judges, also by
its mountinfo which node was bound: "own" where the container resolved the path of the bind mount,
"caller" where the host did.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Literal

from tests.conftest import require
from tests.kit.cgroups import hierarchies, remove_directory
from tests.kit.wellformed import check, cpu_numbers

MEMORY = 64 << 20
FILES = ("meminfo", "cpuinfo", "stat", "uptime", "loadavg", "swaps", "diskstats")
_MARK = "-- "
_COMMANDS = {f"proc/{name}": f"cat /proc/{name}" for name in FILES} | {
    "mounts": "grep fuse.pylxcfs /proc/self/mountinfo",
    "namespace": "readlink /proc/self/ns/pid",
}
#: A shell command that prints every file, and which nodes are bound, each behind its name.
REPORT = "; ".join(f"echo '{_MARK}{name}'; {command}" for name, command in _COMMANDS.items())
_KEY = re.compile(r"/own/(\d+)(?:\.\d+)?-[0-9a-f]+-[0-9a-f]{32}")


def busybox_root(directory: Path) -> Path:
    """Make a root filesystem with BusyBox alone in it."""
    busybox = shutil.which("busybox")
    if busybox is None:
        require("clients", "there is no busybox on PATH")
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(busybox, directory / "bin/busybox")
    for applet in ("cat", "echo", "free", "grep", "head", "readlink", "sh", "sleep"):
        os.symlink("busybox", directory / "bin" / applet)
    return directory


def check_report(
    output: bytes, memory: int = MEMORY, node: Literal["own", "caller"] = "own"
) -> dict[str, str]:
    """Check what REPORT printed in a container with `memory` bytes and one CPU.

    Return the mounts: the path in the container, and its root in the filesystem.
    """
    # A terminal in between would turn line ends into CR LF.
    output = output.replace(b"\r\n", b"\n")
    shown: dict[str, bytes] = {}
    for part in output.split(_MARK.encode())[1:]:
        name, _, content = part.partition(b"\n")
        shown[name.decode()] = content
    assert set(shown) == set(_COMMANDS), output
    for name in FILES:
        check(f"proc/{name}", shown[f"proc/{name}"])
    assert shown["proc/meminfo"].split()[1] == str(memory >> 10).encode()
    assert len(cpu_numbers("proc/cpuinfo", shown["proc/cpuinfo"])) == 1
    assert cpu_numbers("proc/stat", shown["proc/stat"]) == cpu_numbers(
        "proc/cpuinfo", shown["proc/cpuinfo"]
    )
    assert float(shown["proc/uptime"].split()[0]) < 60
    lines = [line.split() for line in shown["mounts"].decode().splitlines()]
    mounts = {fields[4]: fields[3] for fields in lines}
    assert set(mounts) >= {f"/proc/{name}" for name in FILES} | {"/sys/devices/system/cpu"}, mounts
    if node == "caller":
        assert all(root == path for path, root in mounts.items()), mounts
    else:
        key = _KEY.match(mounts["/proc/meminfo"])
        assert key is not None, mounts
        assert shown["namespace"].decode().strip() == f"pid:[{key[1]}]"
        assert all(root == f"{key[0]}{path}" for path, root in mounts.items()), mounts
    return mounts


def remove_cgroups(name: str) -> None:
    """Remove the cgroup `name`, and what is in it, from the top of every hierarchy."""
    tops = {hierarchy.mountpoint for hierarchy in hierarchies()}
    # Runtimes use the ones without limits too, as freezer, devices and name=systemd.
    tops |= {Path(entry.path) for entry in os.scandir("/sys/fs/cgroup") if entry.is_dir()}
    for top in tops:
        for directory, _, _ in os.walk(top / name, topdown=False):
            remove_directory(Path(directory))
