"""Containers whose cgroup changes, moves or ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from pylxcfs.errors import Gone
from pylxcfs.server.handover import Inheritance, export
from pylxcfs.sources import settings
from pylxcfs.sources.containers import ContainerSource
from tests.cgroup.processes import name_of
from tests.conftest import wait_until
from tests.kit.cgroups import Cgroup, is_v2
from tests.kit.deadleader import dead_leader

MIB = 1 << 20


def move(pid, cgroup):
    for procs in cgroup.procs:
        procs.write_text(str(pid))


class Leaf(NamedTuple):
    """A cgroup of v2 that has no controllers."""

    procs: list[Path]

    def command(self, argv):
        return ["sh", "-c", f'echo 0 >{self.procs[0]} && exec "$@"', "sh", *argv]


@pytest.fixture
def make_leaf(make_cgroup, make_below):
    """Make a cgroup below a container's, which has processes of its own."""

    def make(made):
        if is_v2():
            return Leaf([make_below(made.cgroup.paths[""]) / "cgroup.procs"])
        return make_cgroup(parent=made.cgroup)

    return make


def test_a_moved_container_has_the_limits_of_where_it_is(make_cgroup, make_container, look_up):
    other = make_cgroup()
    other.limits(memory=200 * MIB)
    made = make_container(memory=100 * MIB)
    container = look_up(made.pid)
    assert container.memory().limit == 100 * MIB
    move(made.pid, other)
    wait_until(lambda: container.memory().limit == 200 * MIB, what="the other cgroup's limit")
    move(made.pid, made.cgroup)
    wait_until(lambda: container.memory().limit == 100 * MIB, what="the first one's again")


@pytest.mark.skipif(is_v2(), reason="v2 prints the cgroup in which the main thread has ended")
def test_a_container_is_followed_after_the_end_of_its_inits_main_thread(make_cgroup, look_up):
    first, second = make_cgroup(), make_cgroup()
    for cgroup, limit in ((first, 100 * MIB), (second, 200 * MIB)):
        cgroup.limits(memory=limit)
    with dead_leader(first, is_init=True) as init:
        container = look_up(init.pid)
        assert container.memory().limit == 100 * MIB
        init.end_main()
        move(init.pid, second)
        wait_until(lambda: container.memory().limit == 200 * MIB, what="the other cgroup's limit")


@pytest.mark.parametrize("namespaces", [[], ["cgroup"]])
def test_an_init_that_moves_into_a_leaf_does_not_narrow_its_container(
    make_leaf, make_container, look_up, namespaces
):
    """As dind, k3s and OpenRC move it; the work is in another leaf."""
    made = make_container(memory=400 * MIB, namespaces=namespaces)
    container = look_up(made.pid)
    assert container.memory().limit == 400 * MIB
    leaf, work = make_leaf(made), make_leaf(made)
    move(made.pid, leaf)
    assert_shows_all(container, work)
    move(made.pid, made.cgroup)  # so that the leaf can be removed


def test_a_leaf_into_which_init_moved_before_it_was_seen(make_leaf, make_container, look_up):
    """Its cgroup namespace tells."""
    made = make_container(memory=400 * MIB, namespaces=["cgroup"])
    leaf, work = make_leaf(made), make_leaf(made)
    move(made.pid, leaf)
    assert_shows_all(look_up(made.pid), work)
    move(made.pid, made.cgroup)


def test_the_next_server_knows_where_an_init_was_before_it_moved(
    make_leaf, make_container, make_registry
):
    made = make_container(memory=400 * MIB)
    before = make_registry()
    identity = before.identify(made.pid)
    before.get(identity, made.pid).memory()
    leaf, work = make_leaf(made), make_leaf(made)
    move(made.pid, leaf)
    container = before.get(identity, made.pid)
    wait_until(lambda: container.memory() and container.init_is_below, what="the move")
    inheritance = Inheritance(json.loads(json.dumps(export(before.containers()))), 10**18, 10**18)
    after = make_registry(on_new=inheritance.hand_over)
    assert_shows_all(after.get(identity, made.pid), work)
    move(made.pid, made.cgroup)


def assert_shows_all(container, work):
    program = "import time; data = bytearray(200 << 20); end = time.process_time() + 1\n"
    program += "while time.process_time() < end: pass\nprint(1, flush=True); input()"
    with subprocess.Popen(
        work.command([sys.executable, "-c", program]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            process.stdout.readline()
            wait_until(lambda: container.memory().usage > 200 * MIB, what="the leaf's memory")
            assert container.memory().limit == 400 * MIB
            usage = container.cpu_usage()
            assert usage.user_ns + usage.system_ns > 800_000_000
        finally:
            process.communicate(b"\n")


def test_a_cgroup_that_ends_behind_a_moved_container_is_not_missed(
    tmp_cgroup, make_container, look_up
):
    tmp_cgroup.limits(memory=200 * MIB)
    with Cgroup() as first:
        first.limits(memory=100 * MIB)
        made = make_container(cgroup=first)
        container = look_up(made.pid)
        assert container.memory().limit == 100 * MIB
        move(made.pid, tmp_cgroup)
    # Now the descriptors that it holds are of a cgroup that has ended.
    assert container.memory().limit == 200 * MIB
    assert not container.gone


def test_a_removed_cgroup_is_gone(hierarchies, tmp_cgroup):
    with Cgroup(parent=tmp_cgroup) as cgroup:
        with subprocess.Popen(cgroup.command(["cat"]), stdin=subprocess.PIPE) as process:
            wait_until(lambda: name_of(process.pid) == "cat", what="the process in its cgroup")
            paths = hierarchies.paths_of(process.pid)
        container = ContainerSource(hierarchies, paths=paths)
        assert container.memory() is not None
        assert container.cpu_usage() is not None
    for read in (container.memory, container.cpu_usage, container.cpu_limit):
        with pytest.raises(Gone):
            read()
    assert container.gone


def test_another_cpu_cgroup_at_the_same_path_is_noticed(
    hierarchies, tmp_cgroup, make_below, monkeypatch
):
    """As a service that is restarted; its limits are watched, and inotify reports no removal."""
    if is_v2():
        pytest.skip("there one cgroup has all controllers")

    monkeypatch.setattr(settings, "_BELIEVED_S", 3600)
    path = hierarchies.paths_in(tmp_cgroup.run(["cat", "/proc/self/cgroup"]))["cpu"]
    first = make_below(tmp_cgroup.paths["cpu"])
    (first / "cpu.cfs_quota_us").write_text("50000")
    container = ContainerSource(hierarchies, paths={"cpu": f"{path}/{first.name}"})
    for _ in range(3):
        assert container.cpu_limit().quota == 0.5
    first.rmdir()
    first.mkdir()
    (first / "cpu.cfs_quota_us").write_text("150000")
    wait_until(lambda: container.cpu_limit().quota == 1.5, what="the other cgroup's quota")


def test_a_controller_that_is_enabled_later_is_noticed(make_container, look_up, tmp_cgroup):
    if not is_v2():
        return  # there a controller is enabled for all or for none
    made = make_container(parent=tmp_cgroup, memory=100 * MIB)
    container = look_up(made.pid)
    parent = tmp_cgroup.paths[""]
    (parent / "memory.max").write_text(str(200 * MIB))
    (parent / "cgroup.subtree_control").write_text("-memory")
    wait_until(lambda: container.memory().limit == 200 * MIB, what="the parent's limit alone")
    (parent / "cgroup.subtree_control").write_text("+memory")
    made.limits(memory=100 * MIB)
    wait_until(lambda: container.memory().limit == 100 * MIB, what="its own limit again")
