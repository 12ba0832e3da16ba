"""The table of containers where threads meet in it; on real ones it is tests/cgroup's."""

from __future__ import annotations

import os
import select

import pytest

from pylxcfs.sources.containers import ContainerSource
from pylxcfs.sources.identity import Identity
from pylxcfs.sources.initpid import InitFinder
from pylxcfs.sources.procfs import HostFiles
from pylxcfs.sources.registry import Registry, _Init


@pytest.fixture
def registry(tree):
    tree.v2("pids")
    tree.cgroup("c", {})
    made = Registry(tree.hierarchies(), HostFiles(str(tree.root)), InitFinder())
    yield made
    made.close()


def test_an_end_that_another_thread_has_seen_ends_no_container_after_it(registry, tree):
    number, closed = os.pipe()
    os.close(closed)  # readable, as the pidfd of a process that has ended
    living, closed = os.pipe()

    def add(pidns):
        container = ContainerSource(tree.hierarchies(), paths={"": "/c"})
        registry._inits[pidns] = _Init(1, number, container)
        registry._by_pidfd[number] = pidns
        epoll.register(number, select.EPOLLIN)

    class Overtaken:
        """Between an answer and what comes of it, another thread forgets, and adds another."""

        done = False

        def poll(self, timeout):
            found = epoll.poll(timeout)
            if not self.done:
                self.done = True
                registry.reap()
                os.dup2(living, number)
                add(2)
            return found

        def __getattr__(self, name):
            return getattr(epoll, name)

    epoll = registry._epoll
    add(1)
    registry._epoll = Overtaken()
    registry.reap()
    registry._epoll = epoll
    assert list(registry._inits) == [2]
    os.close(living)
    os.close(closed)


def test_searching_for_what_is_not_there_takes_a_share_of_the_time_and_no_more(tree):
    for pid in (7, 8):
        (tree.root / f"proc/{pid}/ns").mkdir(parents=True)
        (tree.root / f"proc/{pid}/ns/pid").symlink_to(f"pid:[{4026532000 + pid}]")
    now = [1000.0]
    looked = []

    class Slow(Registry):
        def _search(self, identity):
            looked.append(identity)
            now[0] += 0.1
            return super()._search(identity)

    registry = Slow(
        tree.hierarchies(), HostFiles(str(tree.root)), InitFinder(), clock=lambda: now[0]
    )
    assert registry.search(Identity(4026532007, 0)) == 7
    for _ in range(100):
        registry.search(Identity(4026539999, 0))
    assert len(looked) < 8
    now[0] += 60
    assert registry.search(Identity(4026532008, 0)) == 8
    registry.close()
