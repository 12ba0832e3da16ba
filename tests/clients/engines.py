"""What the engines' tests share: a root filesystem of BusyBox, and what a container should say.

Every engine's container gets 64 MiB and one CPU and runs REPORT; `check_report` judges.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.conftest import require
from tests.kit.cgroups import hierarchies, remove_directory
from tests.kit.wellformed import check, cpu_numbers

MEMORY = 64 << 20
FILES = ("meminfo", "cpuinfo", "stat", "uptime", "loadavg", "swaps", "diskstats")
_MARK = "-- "
#: A shell command that prints every file, each behind a line with its name.
REPORT = "; ".join(f"echo '{_MARK}proc/{name}'; cat /proc/{name}" for name in FILES)


def busybox_root(directory: Path) -> Path:
    """Make a root filesystem with BusyBox alone in it."""
    busybox = shutil.which("busybox")
    if busybox is None:
        require("clients", "there is no busybox on PATH")
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(busybox, directory / "bin/busybox")
    for applet in ("cat", "echo", "free", "grep", "head", "sh", "sleep"):
        os.symlink("busybox", directory / "bin" / applet)
    return directory


def check_report(output: bytes, memory: int = MEMORY) -> None:
    """Check what REPORT printed in a container with `memory` bytes and one CPU."""
    # A terminal in between would turn line ends into CR LF.
    output = output.replace(b"\r\n", b"\n")
    shown: dict[str, bytes] = {}
    for part in output.split(_MARK.encode())[1:]:
        name, _, content = part.partition(b"\n")
        shown[name.decode()] = content
    assert set(shown) == {f"proc/{name}" for name in FILES}, output
    for name, content in shown.items():
        check(name, content)
    assert shown["proc/meminfo"].split()[1] == str(memory >> 10).encode()
    assert len(cpu_numbers("proc/cpuinfo", shown["proc/cpuinfo"])) == 1
    assert cpu_numbers("proc/stat", shown["proc/stat"]) == cpu_numbers(
        "proc/cpuinfo", shown["proc/cpuinfo"]
    )
    assert float(shown["proc/uptime"].split()[0]) < 60


def remove_cgroups(name: str) -> None:
    """Remove the cgroup `name`, and what is in it, from the top of every hierarchy."""
    tops = {hierarchy.mountpoint for hierarchy in hierarchies()}
    # Runtimes use the ones without limits too, as freezer, devices and name=systemd.
    tops |= {Path(entry.path) for entry in os.scandir("/sys/fs/cgroup") if entry.is_dir()}
    for top in tops:
        for directory, _, _ in os.walk(top / name, topdown=False):
            remove_directory(Path(directory))
