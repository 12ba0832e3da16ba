"""The table of containers when threads meet in it; tests/cgroup has it with real containers."""

from __future__ import annotations

import os
import select

import pytest

from pylxcfs.sources.containers import ContainerSource
from pylxcfs.sources.identity import Identity
from pylxcfs.sources.initpid import InitFinder
from pylxcfs.sources.kept import Descriptor
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
        registry._inits[pidns] = _Init(1, Descriptor(number), container)
        registry._by_pidfd[number] = pidns
        epoll.register(number, select.EPOLLIN)

    class Overtaken:
        """Between an answer and what comes of it, another thread forgets, and adds another."""

        done = False

        def poll(self, timeout, most):
            found = epoll.poll(timeout, most)
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


def test_a_thousand_containers_that_end_at_once_are_dropped_a_few_at_a_time(registry, tree):
    def add(pidns):
        number, closed = os.pipe()
        os.close(closed)
        container = ContainerSource(tree.hierarchies(), paths={"": "/c"})
        registry._inits[pidns] = _Init(1, Descriptor(number), container)
        registry._by_pidfd[number] = pidns
        registry._epoll.register(number, select.EPOLLIN)

    for pidns in range(1, 41):
        add(pidns)
    registry.reap()
    assert 20 < len(registry._inits) < 40
    # One that is asked for is not served from an entry that has ended, whatever was dropped.
    assert not registry.knows(Identity(next(reversed(registry._inits)), 0))
    while registry._inits:
        assert select.select([registry.fileno()], [], [], 0)[0]
        registry.reap()
    assert not select.select([registry.fileno()], [], [], 0)[0]
