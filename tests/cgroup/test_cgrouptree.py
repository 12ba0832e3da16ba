"""The cgroup tree on real cgroups, without a mount; the rest is in tests/mount/test_cgroup.py."""

from __future__ import annotations

import errno
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pylxcfs.sources.cgroupfs import CgroupFiles
from pylxcfs.sources.identity import fair_key
from pylxcfs.tree import nodes
from pylxcfs.tree.cgroup import CgroupTree
from tests.conftest import wait_until
from tests.kit.cgroups import is_v2

#: Has the number of cgroup.procs (nodes.name_number).
COLLIDING = b"e1129687"


def test_the_name_of_a_node_is_never_that_of_a_directory(
    hierarchies, registry, make_container, make_below
):
    """Of a node from an earlier server: containers choose the names of directories."""
    made = make_container()
    files = CgroupFiles(hierarchies, registry, 1.0)
    caller = files.caller(made.pid)
    key = "" if is_v2() else "memory"
    directory = made.cgroup.paths[key]
    inside = make_below(directory).name.encode()
    (directory / COLLIDING.decode()).mkdir()
    try:

        def node(name: bytes) -> int:
            number = directory.stat().st_ino
            return nodes.cgroup_node(nodes.HIERARCHIES.index(key), number, name)

        tree = CgroupTree(files)
        assert node(COLLIDING) == node(b"cgroup.procs")
        with pytest.raises(OSError, match="gone") as caught:
            tree.attributes(node(inside), caller)
        assert caught.value.errno == errno.ESTALE
        assert stat.S_ISREG(tree.attributes(node(COLLIDING), caller).st_mode)
        assert tree.lookup(node(b""), b"cgroup.procs", caller).node == node(b"cgroup.procs")
        listed = {name for _, name, _ in tree.entries(node(b""), caller, 0)}
        assert {inside, COLLIDING, b"cgroup.procs"} < listed
    finally:
        (directory / COLLIDING.decode()).rmdir()


def test_limits_of_a_container_are_for_all_its_users_and_pid_namespaces(
    hierarchies, registry, make_container
):
    first, second = make_container(), make_container()
    files = CgroupFiles(hierarchies, registry, 1.0)
    with first.popen(
        ["unshare", "--pid", "--fork", "setpriv", "--reuid=1000", "cat"], stdin=subprocess.PIPE
    ) as process:
        pids = wait_until(
            lambda: [pid for pid in first.cgroup.pids() if _uid(pid) == 1000], what="its cat"
        )
        assert files.caller(pids[0]).key == files.caller(first.pid).key
        assert files.caller(second.pid).key != files.caller(first.pid).key
        process.communicate()


def test_limits_of_the_host_are_for_one_user(hierarchies, registry):
    """Of a program with the set-user-ID bit for the user that runs it."""
    files = CgroupFiles(hierarchies, registry, 1.0)
    script = "import os, sys; os.setresuid(int(sys.argv[1]), 0, 0); print(flush=True); input()"
    for uid in (0, 1234):
        command = [sys.executable, "-c", script, str(uid)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            own = registry.host_identity.pidns
            assert files.caller(process.pid).key == fair_key(process.pid, uid, own)
            process.communicate(b"\n")


def _uid(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split("Uid:")[1].split()[0])
