"""Which container a process belongs to."""

from __future__ import annotations

import gc
import os
import select
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pylxcfs.errors import Gone
from pylxcfs.formats import pidstat
from pylxcfs.sources.identity import Identity, pidns_of
from pylxcfs.units import NS_PER_TICK
from tests.cgroup.processes import descendants_of, name_of
from tests.conftest import wait_until
from tests.kit.cgroups import is_v2

MIB = 1 << 20


@pytest.fixture(params=["auto", "scm"])
def registry(request, make_registry):
    return make_registry(request.param)


def test_a_container_is_its_pid_namespace(registry, make_container):
    made = make_container(memory=100 * MIB)
    other = make_container(memory=200 * MIB)
    identity = registry.identify(made.pid)
    assert identity == Identity(made.pidns, 0)
    container = registry.get(identity, made.pid)
    assert container.memory().limit == 100 * MIB
    assert registry.get(identity, made.pid) is container
    second = registry.get(registry.identify(other.pid), other.pid)
    assert second.memory().limit == 200 * MIB
    assert len(registry.containers()) == 2


def test_a_known_container_needs_no_process(registry, make_container):
    made = make_container()
    identity = registry.identify(made.pid)
    assert registry.get(identity, 0) is None
    container = registry.get(identity, made.pid)
    assert registry.get(identity, 0) is container


def test_a_cgroup_namespace_that_the_init_has_too_tells_nothing_more(registry, make_container):
    made = make_container(namespaces=["cgroup"])
    with made.popen(["cat"], stdin=subprocess.PIPE):
        pids = wait_until(lambda: made.cgroup.pids() - {made.pid}, what="a second process")
        for pid in pids | {made.pid}:
            assert registry.identify(pid).cgroupns == 0


def test_a_container_ends_with_its_init(registry, make_container):
    made = make_container()
    identity = registry.identify(made.pid)
    container = registry.get(identity, made.pid)
    container.memory()
    fds = len(os.listdir("/proc/self/fd"))
    made.close()
    assert wait_until(lambda: registry.get(identity, 0) is None, what="its end")
    assert registry.containers() == []
    assert container.gone
    with pytest.raises(Gone):
        container.memory()
    del container
    assert len(os.listdir("/proc/self/fd")) < fds


def test_the_end_of_an_init_makes_the_descriptor_readable(registry, make_container):
    made = make_container()
    registry.get(registry.identify(made.pid), made.pid)
    poll = select.poll()
    poll.register(registry.fileno(), select.POLLIN)
    assert poll.poll(0) == []
    made.close()
    assert poll.poll(10_000)
    registry.reap()
    assert poll.poll(0) == []
    assert registry.containers() == []


@pytest.mark.parametrize("pid", [0, -1, 4194304 + 1])
def test_a_process_that_is_not_there_has_no_container(registry, pid):
    assert registry.identify(pid) is None
    assert registry.get(Identity(1, 0), pid) is None
    assert registry.get(Identity(1, 2), pid) is None
    assert registry.get(registry.host_identity, pid) is None


def test_a_process_of_another_container_is_not_taken_for_it(registry, make_container):
    made = make_container()
    other = make_container()
    assert registry.get(registry.identify(made.pid), other.pid) is None


def test_a_process_in_a_pid_namespace_below_leads_to_the_container(registry, make_container):
    """A file of the container that a nested namespace reads before the container itself has."""
    made = make_container(memory=100 * MIB)
    argv = ["unshare", "--pid", "--fork", "sh", "-c", "echo inside; read x"]
    with made.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"inside\n"
        nested = [
            pid
            for pid in descendants_of(process.pid)
            if pidns_of(pid) not in (made.pidns, pidns_of(os.getpid()))
        ]
        assert nested
        container = registry.get(Identity(made.pidns, 0), nested[0])
        assert container.memory().limit == 100 * MIB
        below = registry.get(registry.identify(nested[0]), nested[0])
        assert below is not container
        assert registry.get(Identity(made.pidns, 0), made.pid) is container
        # The other way does not lead there.
        identity = Identity(pidns_of(nested[0]), 0)
        process.communicate(b"\n")
        wait_until(lambda: registry.get(identity, made.pid) is None, what="its end")


def test_the_epoch_is_the_start_of_the_init(registry, make_container):
    made = make_container()
    container = registry.get(registry.identify(made.pid), made.pid)
    stat = pidstat.parse(Path(f"/proc/{made.pid}/stat").read_bytes())
    assert container.epoch == stat.start_ticks > 0
    assert container.started_ns() == container.epoch * NS_PER_TICK
    container.release()
    container.memory()
    assert container.epoch == stat.start_ticks


def test_host_processes_are_the_host(registry):
    identity = registry.identify(os.getpid())
    assert identity == registry.host_identity
    assert identity.pidns == os.stat("/proc/self/ns/pid").st_ino


def test_a_host_process_in_a_limited_cgroup_sees_that(registry, tmp_cgroup):
    with subprocess.Popen(tmp_cgroup.command(["cat"]), stdin=subprocess.PIPE) as process:
        wait_until(lambda: name_of(process.pid) == "cat", what="the process in its cgroup")
        identity = registry.identify(process.pid)
        assert registry.get(identity, process.pid) is None  # nothing is limited
        tmp_cgroup.limits(memory=100 * MIB)
        assert registry.get(identity, process.pid).memory().limit == 100 * MIB
        tmp_cgroup.limits(memory=None, cpus=0.5)
        container = registry.get(identity, process.pid)
        assert container.cpu_limit().quota == 0.5
        assert container.started_ns() == 0


def test_only_so_many_containers_hold_descriptors(make_registry, make_container):
    gc.collect()  # what earlier tests have left open would be closed between two counts
    registry = make_registry(max_containers=2)
    containers = []
    counts = []
    for _ in range(4):
        made = make_container(memory=100 * MIB)
        container = registry.get(registry.identify(made.pid), made.pid)
        container.memory()
        containers.append(container)
        counts.append(len(os.listdir("/proc/self/fd")))
    # From the third on: a pidfd and /proc/INIT/cgroup for the new, and what an old one gives up.
    assert counts[3] - counts[2] < counts[1] - counts[0]
    # It is marked so, until it is looked up again.
    assert [container.released for container in containers] == [True, True, False, False]
    identity = next(who for who, container in registry.containers() if container is containers[0])
    assert registry.get(identity, 0) is containers[0]
    assert [container.released for container in containers] == [False, True, True, False]
    assert all(container.memory().limit == 100 * MIB for container in containers)


def test_containers_that_fall_out_are_found_again(make_registry, make_container):
    registry = make_registry(max_containers=1)
    all_made = [make_container(memory=(100 + number) * MIB) for number in range(6)]
    for _ in range(2):
        for number, made in enumerate(all_made):
            container = registry.get(registry.identify(made.pid), made.pid)
            assert container.memory().limit == (100 + number) * MIB
    assert len(registry.containers()) <= 4


def test_two_threads_find_the_same_container(make_registry, make_container):
    registry = make_registry()
    made = [make_container() for _ in range(3)]

    def find(number):
        pid = made[number % 3].pid
        container = registry.get(registry.identify(pid), pid)
        assert container.memory() is not None
        return number % 3, container

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(find, range(300)))
    assert len({id(container) for _, container in found}) == 3
    assert len(registry.containers()) == 3


def test_a_process_of_a_container_can_be_searched_for(registry, make_container):
    assert registry.settle(60)
    made = make_container()
    identity = Identity(made.pidns, 0)
    assert registry.search(identity) == 0  # it started after the first walk
    assert registry.settle(60)
    pid = registry.search(identity)
    assert registry.identify(pid).pidns == made.pidns
    assert registry.search(Identity(1, 0)) == 0


def test_a_new_registry_finds_the_containers_that_run(make_registry, make_container):
    """A server that replaces another gets requests for keys, from processes on the host."""
    made = make_container()
    registry = make_registry()
    assert registry.settle(60)
    assert pidns_of(registry.search(Identity(made.pidns, 0))) == made.pidns


def test_new_containers_are_told(make_registry, make_container):
    told = []
    registry = make_registry(on_new=lambda identity, container: told.append((identity, container)))
    made = make_container()
    for _ in range(2):
        container = registry.get(registry.identify(made.pid), made.pid)
    assert told == [(Identity(made.pidns, 0), container)]


class Sidecar:
    """A container in the pid namespace of another, with a cgroup and a cgroup namespace of its
    own, as Kubernetes makes them with shareProcessNamespace."""

    def __init__(self, pause, cgroup):
        argv = ["nsenter", "-t", str(pause.pid), "-p", "unshare", "--cgroup", "cat"]
        self._process = subprocess.Popen(cgroup.command(argv), stdin=subprocess.PIPE)

        def inside():
            pids = [pid for pid in cgroup.pids() if name_of(pid) == "cat"]
            return pids[0] if pids else 0

        self.pid = wait_until(inside, what="the sidecar's process")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.communicate()


def test_containers_that_share_a_pid_namespace_see_their_own_limits(
    registry, make_cgroup, make_container
):
    pod = make_cgroup()
    cgroup = make_cgroup(parent=pod)
    pause = make_container(parent=pod, namespaces=["cgroup"], memory=50 * MIB)
    cgroup.limits(memory=200 * MIB, cpus=0.5)
    with Sidecar(pause, cgroup) as sidecar:
        identity = registry.identify(sidecar.pid)
        assert identity.pidns == pause.pidns
        assert identity.cgroupns == os.stat(f"/proc/{sidecar.pid}/ns/cgroup").st_ino
        container = registry.get(identity, sidecar.pid)
        assert container.memory().limit == 200 * MIB
        assert container.cpu_limit().quota == 0.5
        assert container.started_ns() > 0
        own = registry.get(registry.identify(pause.pid), pause.pid)
        assert own.epoch == container.epoch > 0
        assert own.memory().limit == 50 * MIB
        assert {known for known, _ in registry.containers()} == {
            Identity(pause.pidns, 0),
            identity,
        }
        wait_until(lambda: registry.search(identity), what="a walk that sees the sidecar")
        assert registry.identify(registry.search(identity)) == identity
    # It ended, and another takes its place in the pod.
    with Sidecar(pause, cgroup) as second:
        cgroup.limits(memory=300 * MIB)
        container = registry.get(registry.identify(second.pid), second.pid)
        assert container.memory().limit == 300 * MIB


def test_below_the_root_of_its_namespace_a_process_still_sees_the_root(
    registry, make_cgroup, make_container, make_below
):
    pod = make_cgroup()
    app = make_cgroup(parent=pod)
    pause = make_container(parent=pod, namespaces=["cgroup"])
    app.limits(memory=200 * MIB)
    with Sidecar(pause, app) as sidecar:
        for procs in app.procs:
            if is_v2() or procs.parent != app.directory("cpuset"):  # a new v1 cpuset is empty
                below = make_below(procs.parent)
                (below / "cgroup.procs").write_text(str(sidecar.pid))
        container = registry.get(registry.identify(sidecar.pid), sidecar.pid)
        assert container.memory().limit == 200 * MIB
        wanted = os.fspath(app.directory("memory"))
        assert wanted.endswith(container.paths()["" if is_v2() else "memory"])
