"""Containers that are being set up are known, with their files open, before they read."""

from __future__ import annotations

import os
import select

from pylxcfs.sources.prewarm import Prewarm

MIB = 1 << 20


def readable(prewarm: Prewarm) -> bool:
    return bool(select.select([prewarm.fileno()], [], [], 0)[0])


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_container_is_ready_before_its_first_read(make_registry, make_container):
    registry = make_registry()
    prewarm = Prewarm(registry)
    assert not readable(prewarm)
    made = make_container(memory=100 * MIB, cpus=0.5)
    identity = registry.identify(made.pid)
    prewarm.note(identity, made.pid)
    assert readable(prewarm)
    assert prewarm.count() == 1
    prewarm.prepare()
    assert not readable(prewarm)
    assert registry.knows(identity)
    before = descriptors()
    container = registry.get(identity, made.pid)
    assert container.memory().limit == 100 * MIB
    assert container.cpu_limit().quota == 0.5
    container.cpu_usage()
    assert descriptors() == before


def test_a_container_that_was_only_identified_is_not_ready_yet(make_registry, make_container):
    """A cgroup namespace of its own has its init looked up."""
    registry = make_registry()
    prewarm = Prewarm(registry)
    made = make_container(namespaces=["cgroup"])
    identity = registry.identify(made.pid)
    assert registry.knows(identity)
    prewarm.note(identity, made.pid)
    assert readable(prewarm)


def test_a_container_that_has_read_and_the_host_are_not_noted(make_registry, make_container):
    registry = make_registry()
    prewarm = Prewarm(registry)
    made = make_container()
    identity = registry.identify(made.pid)
    registry.get(identity, made.pid).cpu_usage()
    prewarm.note(identity, made.pid)
    prewarm.note(registry.host_identity, os.getpid())
    assert not readable(prewarm)


def test_a_container_that_ended_meanwhile_is_not_known(make_registry, make_container):
    registry = make_registry()
    prewarm = Prewarm(registry)
    made = make_container()
    identity, pid = registry.identify(made.pid), made.pid
    prewarm.note(identity, pid)
    made.close()
    assert prewarm.count() == 1
    prewarm.prepare()
    assert not registry.knows(identity)


def test_a_container_that_is_moved_after_it_was_prepared_has_its_new_limits(
    make_registry, make_container, make_cgroup
):
    """A runtime may put it where it belongs after it has bound its files."""
    registry = make_registry()
    prewarm = Prewarm(registry)
    made = make_container(memory=100 * MIB)
    identity = registry.identify(made.pid)
    prewarm.note(identity, made.pid)
    prewarm.count()
    prewarm.prepare()
    other = make_cgroup()
    other.limits(memory=300 * MIB)
    for procs in other.procs:
        procs.write_text(str(made.pid))
    assert registry.get(identity, made.pid).memory().limit == 300 * MIB
