"""Changes of limits, on made-up machines: inotify reports writes to their files as well."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylxcfs.resources.query import Query
from pylxcfs.resources.watch import Watched
from tests.unit.resources.conftest import MIB, v1_cgroup, v2_cgroup
from tests.unit.sources.trees import Tree


@contextlib.contextmanager
def watching(tree: Tree) -> Iterator[Watched]:
    with contextlib.closing(Query(root=str(tree.root))) as query:
        yield Watched(query, os.getpid())


def changed(watched: Watched) -> tuple[str, ...] | None:
    """Return the names of changes; None if there was no write to a limit."""
    if not watched.take_writes():
        return None
    change = watched.look()
    return () if change is None else change.changed


def test_a_controller_that_is_enabled_later(v2):
    """By the parent, whose write is what inotify reports; the new file is watched from then on."""
    v2_cgroup(v2, "a")
    v2_cgroup(v2, "a/b")
    own = v2.root / "sys/fs/cgroup/a/b"
    texts = {file: file.read_text() for file in own.iterdir()}
    late = {file: text for file, text in texts.items() if file.name.startswith(("memory", "huge"))}

    def enable(controllers: str) -> None:
        (own / "cgroup.controllers").write_text(controllers)
        (own.parent / "cgroup.subtree_control").write_text(controllers)

    for file in late:
        file.unlink()
    (own / "cgroup.controllers").write_text("cpu\n")
    with watching(v2) as watched:
        assert changed(watched) is None
        for _ in range(2):  # it is disabled as well, and its files are others then
            for file, text in late.items():
                file.write_text(text)
            enable("cpu memory hugetlb\n")
            changed(watched)
            assert watched.resources.sources["memory.usage_bytes"].level == 0
            (own / "memory.max").write_text(f"{100 * MIB}\n")
            assert changed(watched) == ("memory.limit_bytes", "memory.total_bytes")
            (own / "hugetlb.2MB.max").write_text(f"{4 * MIB}\n")
            assert changed(watched) == ("huge_pages.2MB.limit_bytes",)
            for file in late:
                file.unlink()
            enable("cpu\n")
            assert "memory.limit_bytes" in changed(watched)
            assert watched.resources.memory.limit_bytes is None


def _huge_v1(tree: Tree) -> Path:
    v1_cgroup(tree, "a/b")
    (tree.root / "sys/kernel/mm/hugepages/hugepages-2048kB").mkdir(parents=True)
    tree.v1("hugetlb")
    tree.write("proc/self/cgroup", "5:hugetlb:/a/b\n4:memory:/a/b\n")
    for directory in ("hugetlb/a", "hugetlb/a/b"):
        limit = {"hugetlb.2MB.limit_in_bytes": "9223372036854771712\n"}
        tree.cgroup(directory, {**limit, "hugetlb.2MB.usage_in_bytes": "0\n"})
    return tree.root / "sys/fs/cgroup/hugetlb/a/hugetlb.2MB.limit_in_bytes"


def _huge_v2(tree: Tree) -> Path:
    v2_cgroup(tree, "a")
    v2_cgroup(tree, "a/b")
    return tree.root / "sys/fs/cgroup/a/hugetlb.2MB.max"


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_limits_of_huge_pages(version, request):
    tree = request.getfixturevalue(version)
    limit = _huge_v1(tree) if version == "v1" else _huge_v2(tree)
    with watching(tree) as watched:
        limit.write_text(f"{4 * MIB}\n")
        assert changed(watched) == ("huge_pages.2MB.limit_bytes",)
        assert watched.resources.huge_pages == ((2 * MIB, 4 * MIB, 0),)


#: In a user namespace of its own: the limit counts in it alone.
WITHOUT = """
import os, sys
from pylxcfs import resources
from pylxcfs.errors import SourceError
from pylxcfs.resources.query import Query
from pylxcfs.resources.watch import Watched
root, what = sys.argv[1:]
open(f"/proc/sys/user/max_inotify_{what}", "w").write("0")
for begin in (
    lambda: next(resources.watch(query=Query(root=root))),
    lambda: Watched(Query(root=root), os.getpid()),
):
    try:
        begin()
    except SourceError as error:
        print(error)
"""


@pytest.mark.parametrize("what", ["instances", "watches"])
def test_limits_that_cannot_be_watched_are_an_error(v2, what):
    """A loop over `watch`, or a stream, would wait for ever."""
    v2_cgroup(v2, "a")
    v2_cgroup(v2, "a/b")
    command = ["unshare", "-Ur", sys.executable, "-c", WITHOUT, str(v2.root), what]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    said = f"out of inotify {what}; raise fs.inotify.max_user_{what}"
    assert done.stdout.splitlines() == [said, said]
