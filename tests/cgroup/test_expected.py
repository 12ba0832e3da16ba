"""Containers that are being set up are known, with their files open, before they read."""

from __future__ import annotations

import os
import select

from pylxcfs.sources.expected import Expected

MIB = 1 << 20


def readable(expected: Expected) -> bool:
    return bool(select.select([expected.fileno()], [], [], 0)[0])


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_container_is_ready_before_its_first_read(make_registry, make_container):
    registry = make_registry()
    expected = Expected(registry)
    assert not readable(expected)
    made = make_container(memory=100 * MIB, cpus=0.5)
    identity = registry.identify(made.pid)
    expected.note(identity, made.pid)
    assert readable(expected)
    assert expected.count() == 1
    expected.prepare()
    assert not readable(expected)
    assert registry.knows(identity)
    before = descriptors()
    container = registry.get(identity, made.pid)
    assert container.memory().limit == 100 * MIB
    assert container.cpu_limit().quota == 0.5
    container.cpu_usage()
    assert descriptors() == before


def test_who_is_known_by_its_cgroup_namespace_is_not_ready_yet(make_registry, make_container):
    """To tell whose that is, its init was looked up."""
    registry = make_registry()
    expected = Expected(registry)
    made = make_container(namespaces=["cgroup"])
    identity = registry.identify(made.pid)
    assert registry.knows(identity)
    expected.note(identity, made.pid)
    assert readable(expected)


def test_who_has_read_or_the_host_is_not_noted(make_registry, make_container):
    registry = make_registry()
    expected = Expected(registry)
    made = make_container()
    identity = registry.identify(made.pid)
    registry.get(identity, made.pid).cpu_usage()
    expected.note(identity, made.pid)
    expected.note(registry.host_identity, os.getpid())
    assert not readable(expected)


def test_one_that_ended_meanwhile_is_nobody(make_registry, make_container):
    registry = make_registry()
    expected = Expected(registry)
    made = make_container()
    identity, pid = registry.identify(made.pid), made.pid
    expected.note(identity, pid)
    made.close()
    assert expected.count() == 1
    expected.prepare()
    assert not registry.knows(identity)


def test_one_that_is_moved_after_it_was_prepared_shows_its_new_limits(
    make_registry, make_container, make_cgroup
):
    """A runtime may put it where it belongs after it has bound its files."""
    registry = make_registry()
    expected = Expected(registry)
    made = make_container(memory=100 * MIB)
    identity = registry.identify(made.pid)
    expected.note(identity, made.pid)
    expected.count()
    expected.prepare()
    other = make_cgroup()
    other.limits(memory=300 * MIB)
    for procs in other.procs:
        procs.write_text(str(made.pid))
    assert registry.get(identity, made.pid).memory().limit == 300 * MIB
