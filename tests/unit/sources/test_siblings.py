"""Containers that share a pid namespace."""

from __future__ import annotations

import pytest

from pylxcfs.sources import siblings
from pylxcfs.sources.siblings import roots


@pytest.mark.parametrize(
    ("outside", "inside", "root"),
    [
        ("/kubepods/pod/app", "/", "/kubepods/pod/app"),
        ("/kubepods/pod/app/init.scope", "/init.scope", "/kubepods/pod/app"),
        ("/app", "/app", "/"),
        ("/kubepods/pod/other", "/../other", None),  # moved out of its namespace
        ("/kubepods/pod/app", "/b", None),  # moved between the two looks
    ],
)
def test_the_root_is_what_is_left_of_the_path(outside, inside, root):
    assert roots({"": outside}, {"": inside}) == ({} if root is None else {"": root})


def test_hierarchies_are_taken_one_by_one():
    outside = {"memory": "/pod/app", "cpu": "/pod/app/x", "pids": "/elsewhere", "blkio": "/"}
    inside = {"memory": "/", "cpu": "/x", "pids": "/../../elsewhere"}
    assert roots(outside, inside) == {"memory": "/pod/app", "cpu": "/pod/app"}


def test_a_crowd_of_processes_is_not_looked_at_one_by_one(tree, monkeypatch):
    tree.v2("pids")
    tree.cgroup("app", {"cgroup.procs": "".join(f"{pid}\n" for pid in range(100, 10100))})
    looked = []
    monkeypatch.setattr(siblings, "start_of", lambda root, pid: looked.append(pid) or 10000 - pid)
    assert siblings._start_of_oldest(tree.hierarchies(), {"": "/app"}, 7) <= 9900
    assert len(looked) < 100
