"""sys/devices/system/{cpu,node,memory}: the host's trees, narrowed to what the view has."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require
from tests.kit.container import Container
from tests.kit.daemon import Daemon

CPU = "/sys/devices/system/cpu"
NODE = "/sys/devices/system/node"
MEMORY = "/sys/devices/system/memory"
MIB = 1 << 20

#: Runs in a container: every path with type, permissions and link target.
_WALK = """
import json, os, stat, sys
found = {}
def walk(top):
    for entry in os.scandir(top):
        status = entry.stat(follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        # d_type has to say the same as st_mode.
        assert entry.is_dir(follow_symlinks=False) == stat.S_ISDIR(status.st_mode), entry.path
        link = os.readlink(entry.path) if stat.S_ISLNK(status.st_mode) else None
        found[entry.path] = [kind, status.st_mode & 0o555, link]
        if stat.S_ISDIR(status.st_mode):
            walk(entry.path)
walk(sys.argv[1])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def small(daemon: Daemon) -> Iterator[Container]:
    with Container(daemon.mountpoint, cpus=1) as container:
        yield container


def walk(container: Container, top: str) -> dict[str, list[object]]:
    found: dict[str, list[object]] = json.loads(
        container.exec([sys.executable, "-c", _WALK, top]).stdout
    )
    return found


@pytest.mark.parametrize("top", [CPU, NODE, MEMORY])
def test_the_tree_is_the_hosts(daemon: Daemon, top: str) -> None:
    if not os.path.isdir(top):
        require("sysfs", f"this host has no {top}")
    with Container(daemon.mountpoint) as container, Container() as plain:
        assert walk(container, top) == walk(plain, top)


def test_files_that_no_view_changes_are_the_hosts(small: Container) -> None:
    for name in ("possible", "present", "kernel_max", "cpu0/topology/core_id"):
        assert small.read(f"{CPU}/{name}") == Path(f"{CPU}/{name}").read_bytes()


def test_a_cpu_outside_the_view_looks_offline(small: Container) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        require("cpus", "it takes two CPUs")
    assert small.read(f"{CPU}/online") == b"0\n"
    assert b"1" in small.read(f"{CPU}/offline")
    if os.path.exists(f"{CPU}/cpu1/online"):
        assert small.read(f"{CPU}/cpu1/online") == b"0\n"


def test_hide_leaves_the_directories_out() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        require("cpus", "it takes two CPUs")
    with (
        Daemon("--sys-cpu", "hide") as daemon,
        Container(daemon.mountpoint, cpus=1) as container,
    ):
        listed = container.exec(["ls", CPU]).stdout.split()
        assert b"cpu0" in listed
        assert b"cpu1" not in listed
        assert container.read(f"{CPU}/present") == b"0\n"


def test_a_file_only_root_may_read_stays_so(daemon: Daemon, small: Container) -> None:
    private = [
        path
        for path in [Path("/proc/slabinfo"), *Path(CPU).rglob("*")]
        if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o444 == 0o400
    ]
    if not private:
        require("mode-0400", "this host has neither slabinfo nor a file of sysfs with mode 0400")
    done = small.exec(
        ["setpriv", "--reuid=65534", "--clear-groups", "cat", str(private[0])], check=False
    )
    assert done.returncode != 0
    assert b"denied" in done.stderr


def online_memory(container: Container) -> int:
    """What lsmem adds up, in bytes."""
    if not os.path.isdir(MEMORY) or shutil.which("lsmem") is None:
        require("sysfs", f"it takes lsmem, and a host that has {MEMORY}")
    said = container.exec(["lsmem", "-b"], env={**os.environ, "LC_ALL": "C"}).stdout
    found = re.search(rb"^Total online memory: +(\d+)$", said, re.MULTILINE)
    assert found is not None, said
    return int(found[1])


def blocks(container: Container, directory: str) -> set[bytes]:
    names = container.exec(["ls", directory]).stdout.split()
    return {name for name in names if re.fullmatch(rb"memory\d+", name)}


def test_lsmem_agrees_with_the_limit(daemon: Daemon) -> None:
    with Container(daemon.mountpoint, memory=512 * MIB) as container:
        online = online_memory(container)
        block = int(Path(MEMORY, "block_size_bytes").read_text(), 16)
        assert online == -(-512 * MIB // block) * block
        # The node tree has links to what there is, and to nothing else.
        if os.path.isdir(f"{NODE}/node0"):
            linked = [
                blocks(container, f"{NODE}/{path.name}") for path in Path(NODE).glob("node[0-9]*")
            ]
            assert set().union(*linked) == blocks(container, MEMORY)
        # By name neither.
        everything = {os.fsencode(path.name) for path in Path(MEMORY).glob("memory[0-9]*")}
        for name in sorted(everything - blocks(container, MEMORY))[:1]:
            path = f"{MEMORY}/{os.fsdecode(name)}/state"
            assert container.exec(["cat", path], check=False).returncode != 0


def test_lsmem_without_a_limit_is_the_hosts(daemon: Daemon) -> None:
    with Container(daemon.mountpoint) as container, Container() as plain:
        assert online_memory(container) == online_memory(plain)
