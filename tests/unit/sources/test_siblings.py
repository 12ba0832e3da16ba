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
