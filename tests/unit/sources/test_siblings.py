"""Containers that share a pid namespace."""

from __future__ import annotations

import pytest

from pylxcfs.sources import siblings
from pylxcfs.sources.siblings import roots


@pytest.mark.parametrize(
    ("outside", "inside", "seen", "ours", "root"),
    [
        ("/kubepods/pod/app", "/", "/../../../system/ours", "/system/ours", "/kubepods/pod/app"),
        ("/kubepods/pod/app/a", "/a", "/../../../ours", "/ours", "/kubepods/pod/app"),
        ("/app", "/app", "/system/ours", "/system/ours", "/"),
        ("/ours/app/a", "/a", "/../", "/ours", "/ours/app"),  # ours is above it
        ("/app", "/", "/ours", "/app/ours", "/app"),  # and below
        ("/kubepods/pod/other", "/../other", "/../../../ours", "/ours", None),  # moved out of it
        ("/app", "/", "/../../ours", "/ours", None),  # moved up between the two looks
        ("/a/b", "/", "/../ours/us", "/x/ours/us", None),  # and to another branch
        ("/../x/app", "/", "/../../y/ours", "/ours", "/../x/app"),  # the server is in a namespace
    ],
)
def test_the_root_is_as_deep_as_ours_sees_it(outside, inside, seen, ours, root):
    found = roots({"": outside}, {"": inside}, {"": seen}, {"": ours})
    assert found == ({} if root is None else {"": root})


def test_a_process_that_moved_between_the_looks_had_the_parent_of_its_root():
    assert roots({"": "/x/ct"}, {"": "/ct"}, {"": "/../../ours"}, {"": "/ours"}) == {"": "/x/ct"}


def test_hierarchies_are_taken_one_by_one():
    outside = {"memory": "/pod/app", "cpu": "/pod/app/x", "pids": "/elsewhere", "blkio": "/"}
    inside = {"memory": "/", "cpu": "/x", "pids": "/../../elsewhere"}
    seen = dict.fromkeys(outside, "/../..")
    ours = dict.fromkeys(outside, "/")
    assert roots(outside, inside, seen, ours) == {"memory": "/pod/app", "cpu": "/pod/app"}


@pytest.fixture
def looked(monkeypatch):
    """The processes of which the start was read; a later one has an earlier start."""
    looked = []
    monkeypatch.setattr(
        siblings, "start_ticks_of", lambda root, pid: looked.append(pid) or 10000 - pid
    )
    return looked


def test_of_many_processes_only_the_first_ones_are_read(tree, looked):
    tree.v2("pids")
    tree.cgroup("app", {"cgroup.procs": "".join(f"{pid}\n" for pid in range(100, 10100))})
    assert siblings._start_of_oldest(tree.hierarchies(), {"": "/app"}, 7) <= 9900
    assert len(looked) == 65
    assert max(looked) < 1000  # no half of a number


@pytest.mark.parametrize(("threads", "start"), [("2\n", 9900), ("90000\n", 9993)])
def test_a_list_that_v1_would_sort_for_long_is_not_read(tree, looked, threads, start):
    tree.v1("pids")
    tree.cgroup("pids/app", {"cgroup.procs": "99\n100\n", "pids.current": threads})
    assert siblings._start_of_oldest(tree.hierarchies(), {"pids": "/app"}, 7) == start


def test_the_start_of_a_threaded_container_was_that_of_its_reader(tree, looked):
    tree.v2("pids")
    directory = tree.cgroup("app", {"cgroup.threads": "100\n101\n"})
    (directory / "cgroup.procs").mkdir()  # cannot be read, as with EOPNOTSUPP
    assert siblings._start_of_oldest(tree.hierarchies(), {"": "/app"}, 7) == 9899
