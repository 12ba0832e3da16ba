"""The map from namespaces to processes, on a made-up /proc."""

from __future__ import annotations

import threading

import pytest

from pylxcfs.sources import search
from pylxcfs.sources.identity import Identity
from pylxcfs.sources.search import ProcessSearch

PIDNS = 4026532000
CGROUPNS = 4026533000


def process(tree, pid, pidns, cgroupns=CGROUPNS):
    for name, number in ("pid", pidns), ("cgroup", cgroupns):
        link = tree.root / f"proc/{pid}/ns/{name}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(f"{name}:[{number}]")


@pytest.fixture
def made(tree):
    made = ProcessSearch(str(tree.root / "proc"))
    yield made
    made.close()


def test_the_first_walk_needs_no_request(tree, made):
    process(tree, 7, PIDNS)
    process(tree, 8, PIDNS, CGROUPNS + 1)
    made.start()
    assert made.settle(60)
    assert made.find(Identity(PIDNS, 0)) in (7, 8)
    assert made.find(Identity(PIDNS, CGROUPNS)) == 7
    assert made.find(Identity(PIDNS, CGROUPNS + 1)) == 8


def test_a_request_walks_nothing_itself(tree, made):
    process(tree, 7, PIDNS)
    assert made.find(Identity(PIDNS, 0)) == 0  # nothing has started the thread
    made.start()
    assert made.settle(60)
    assert made.find(Identity(PIDNS, 0)) == 7


def test_what_is_not_in_the_map_is_found_after_the_next_walk(tree, made):
    made.start()
    assert made.settle(60)
    process(tree, 9, PIDNS)
    assert made.find(Identity(PIDNS, 0)) == 0
    assert made.settle(60)
    assert made.find(Identity(PIDNS, 0)) == 9


def test_a_process_that_is_another_by_now_is_not_found(tree, made):
    process(tree, 7, PIDNS)
    made.start()
    assert made.settle(60)
    process(tree, 7, PIDNS + 1)
    assert made.find(Identity(PIDNS, 0)) == 0
    assert made.settle(60)
    assert made.find(Identity(PIDNS, 0)) == 0
    assert made.settle(60)
    assert made.find(Identity(PIDNS + 1, 0)) == 7
    process(tree, 7, PIDNS + 1, CGROUPNS + 1)
    assert made.find(Identity(PIDNS + 1, CGROUPNS)) == 0
    assert made.find(Identity(PIDNS + 1, 0)) == 7


def test_requests_during_a_walk_lead_to_one_more(tree, monkeypatch):
    """A reader in a loop keeps one thread busy, at its share."""
    walks, walking, go_on = [], threading.Event(), threading.Event()

    class Slow(ProcessSearch):
        def _walk(self):
            walks.append(None)
            walking.set()
            go_on.wait(60)
            yield from super()._walk()

    made = Slow(str(tree.root / "proc"))
    made.start()
    assert walking.wait(60)
    for _ in range(1000):
        assert made.find(Identity(PIDNS, 0)) == 0
    go_on.set()
    assert made.settle(60)
    assert len(walks) == 2
    made.close()


def test_only_so_many_namespaces_are_kept(tree, monkeypatch, made):
    monkeypatch.setattr(search, "_MOST", 4)
    for pid in range(10, 30):
        process(tree, pid, PIDNS + pid)
    made.start()
    assert made.settle(60)
    assert 1 <= sum(bool(made.find(Identity(PIDNS + pid, 0))) for pid in range(10, 30)) <= 4


def test_without_a_proc_nothing_is_found(tmp_path):
    made = ProcessSearch(str(tmp_path / "proc"))
    made.start()
    assert made.settle(60)
    assert made.find(Identity(PIDNS, 0)) == 0
    made.close()
