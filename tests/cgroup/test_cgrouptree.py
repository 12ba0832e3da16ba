"""The cgroup tree on real cgroups, without a mount; the rest is in tests/mount/test_cgroup.py."""

from __future__ import annotations

import errno
import stat

import pytest

from pylxcfs.sources.cgroupfs import CgroupFiles
from pylxcfs.tree import nodes
from pylxcfs.tree.cgroup import CgroupTree
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
