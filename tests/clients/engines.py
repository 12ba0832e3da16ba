"""What the engines' tests share: a root filesystem, and the report of a container.

Every engine's container gets 64 MiB and one CPU and runs REPORT; `check_report` judges: the files,
what `free` and `nproc --all` make of them, and by mountinfo which node was bound: "own" where the
container resolved the path of the bind mount, "caller" where the host did.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from tests.conftest import require
from tests.kit.cgroups import hierarchies, is_v2, remove_directory
from tests.kit.daemon import ROOT, Daemon
from tests.kit.wellformed import check, cpu_numbers

MEMORY = 64 << 20
FILES = ("meminfo", "cpuinfo", "stat", "uptime", "loadavg", "swaps", "diskstats")
APPLETS = ("cat", "echo", "grep", "head", "nproc", "readlink", "sh", "sleep")
#: User namespaces of containers: these ids of the host.
IDS = {"containerID": 0, "hostID": 100_000, "size": 65_536}
_MARK = "-- "
_COMMANDS = {f"proc/{name}": f"cat /proc/{name}" for name in FILES} | {
    "mounts": "grep fuse.pylxcfs /proc/self/mountinfo",
    "namespace": "readlink /proc/self/ns/pid",
    # By its path: the shell has one of its own, which calls sysinfo(2).
    "free": "/bin/free --bytes",
    # That of BusyBox counts the directories cpuN; glibc, so coreutils, reads what is possible.
    "nproc": "nproc --all",
}
#: A shell command that prints every file, and which nodes are bound, each behind its name.
REPORT = "; ".join(f"echo '{_MARK}{name}'; {command}" for name, command in _COMMANDS.items())
_KEY = re.compile(r"/own/(\d+)(?:\.\d+)?-[0-9a-f]+-[0-9a-f]{32}")
_LIBRARY = re.compile(r"(/\S+) \(0x")
#: crun and libvirt refuse v1 controllers and cgroup v2 side by side; they need not see the latter.
_WITHOUT_V2 = 'umount /sys/fs/cgroup/unified || exit 1; exec "$@"'


def programs(feature: str, *names: str) -> None:
    """Skip the test unless every program is there."""
    for name in names:
        if shutil.which(name) is None:
            require(feature, f"there is no {name} on PATH")


def newer_engines_path() -> str:
    """Fetch Docker 28 and containerd 2, and install nothing; return a PATH with them."""
    directory = ROOT / ".cache/engines"
    fetch = [str(ROOT / "tools/fetch-engines"), str(directory)]
    done = subprocess.run(fetch, capture_output=True, text=True, timeout=500)
    if done.returncode != 0:
        require("newer-engines", done.stderr.strip() or f"{fetch[0]} exits {done.returncode}")
    return f"{directory}/usr/bin:{directory}/usr/sbin:{os.environ['PATH']}"


def without_v2(name: str) -> list[str]:
    """Return what to put before a command that refuses hybrid hosts."""
    if name == "crun" and not is_v2() and os.path.ismount("/sys/fs/cgroup/unified"):
        alone = ["unshare", "--mount", "--propagation=private"]
        return [*alone, "sh", "-c", _WITHOUT_V2, "sh"]
    return []


def busybox_root(directory: Path) -> Path:
    """Make a root filesystem with BusyBox, and `free` of procps with its libraries."""
    programs("clients", "busybox", "free")
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(str(shutil.which("busybox")), directory / "bin/busybox")
    for applet in APPLETS:
        os.symlink("busybox", directory / "bin" / applet)
    free = shutil.which("free")
    assert free is not None
    shutil.copy(free, directory / "bin/free")
    listed = subprocess.run(["ldd", free], capture_output=True, text=True, check=True)
    for library in _LIBRARY.findall(listed.stdout):
        target = directory / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
    return directory


def give(root: Path) -> None:
    """Give a root filesystem to the root of a user namespace."""
    for path in [root, *root.rglob("*")]:
        os.lchown(path, IDS["hostID"], IDS["hostID"])


@contextmanager
def open_directory() -> Iterator[Path]:
    """Make a directory that user namespaces reach, too; of a short name, for sockets."""
    directory = Path(tempfile.mkdtemp(prefix="pylxcfs-", dir="/tmp"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def pylxcfs(daemon: Daemon, *words: str) -> str:
    """Run a command of pylxcfs for this daemon, as a user does; return what it prints."""
    command = [sys.executable, "-m", "pylxcfs", *words, "--runtime-dir", str(daemon.runtime_dir)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_report(
    output: bytes,
    memory: int = MEMORY,
    node: Literal["own", "caller", "mixed"] = "own",
    *,
    everything: bool = False,
) -> dict[str, str]:
    """Check what REPORT printed in a container with `memory` bytes and one CPU.

    `node`: "mixed" is own in /proc and caller in /sys. `everything`: the hook has bound what runc
    refuses as mounts, too. Return the mounts: the path in the container, and its root in the
    filesystem.
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
    assert len(mounts) == len(lines), f"stacked: {lines}"
    mounts.pop("/mnt", None)  # the whole mount, where an engine needs it to bind from
    assert set(mounts) >= {f"/proc/{name}" for name in FILES} | {"/sys/devices/system/cpu"}, mounts
    if everything:
        assert set(mounts) >= {"/proc/vmstat", "/sys/devices/system/node"}, mounts
        assert "/proc/pressure" in mounts or not os.path.exists("/proc/pressure"), mounts
    total = re.search(rb"^Mem: +(\d+)", shown["free"], re.MULTILINE)
    assert total is not None, shown["free"]
    assert int(total[1]) == memory
    assert shown["nproc"] == b"1\n"
    outside = {"own": "/nowhere/", "caller": "/", "mixed": "/sys/"}[node]
    on_caller = {path for path in mounts if path.startswith(outside)}
    assert all(mounts[path] == path for path in on_caller), mounts
    if on_caller != set(mounts):
        key = _KEY.match(mounts["/proc/meminfo"])
        assert key is not None, mounts
        assert shown["namespace"].decode().strip() == f"pid:[{key[1]}]"
        own = {path: root for path, root in mounts.items() if path not in on_caller}
        assert all(root == f"{key[0]}{path}" for path, root in own.items()), mounts
    return mounts


def remove_cgroups(name: str) -> None:
    """Remove the cgroup `name`, and what is in it, from the top of every hierarchy."""
    tops = {hierarchy.mountpoint for hierarchy in hierarchies()}
    # Runtimes use the ones without limits too, as freezer, devices and name=systemd.
    tops |= {Path(entry.path) for entry in os.scandir("/sys/fs/cgroup") if entry.is_dir()}
    for top in tops:
        for directory, _, _ in os.walk(top / name, topdown=False):
            remove_directory(Path(directory))
