"""One container."""

from __future__ import annotations

import shutil

import pytest

from pylxcfs.errors import Gone, SourceError
from pylxcfs.sources import containers
from pylxcfs.sources.averages import Averages, LoadState
from pylxcfs.sources.containers import ContainerSource
from pylxcfs.sources.kept import PinnedFile
from pylxcfs.units import NS_PER_S, NS_PER_TICK
from pylxcfs.views.model import Load


@pytest.fixture
def host(tree, monkeypatch):
    monkeypatch.setattr(containers, "_RECHECK_SECONDS", 0)
    tree.v2("cpu")
    tree.process(7, "0::/a/b\n", start=5)
    for name, quota in (("a/b", "100000"), ("c", "200000")):
        files = {"cpu.max": f"{quota} 100000\n", "cgroup.controllers": "cpu\n"}
        tree.cgroup(name, files | {"cpu.stat": "user_usec 3\nsystem_usec 2\n"})
    return tree


def test_it_is_the_cgroup_of_its_init(host):
    container = ContainerSource(host.hierarchies(), init=7)
    assert container.cpu_limit().quota == 1
    assert container.cpu_usage().user_ns == 3000
    assert container.memory() is None
    assert container.block_io() is None
    assert container.slabinfo() is None
    assert container.mems() is None
    assert container.pressure("cpu") is None
    assert container.load() is None
    assert container.epoch == 5
    assert container.started_ns() == 5 * NS_PER_TICK


def test_it_follows_its_init_to_another_cgroup(host):
    container = ContainerSource(host.hierarchies(), init=7)
    container.cpu_limit()
    host.process(7, "0::/c\n")
    assert container.cpu_limit().quota == 2
    assert container.paths() == {"": "/c"}


def test_a_move_is_noticed_at_once_when_the_old_cgroup_has_ended(host, monkeypatch):
    monkeypatch.setattr(containers, "_RECHECK_SECONDS", 3600)
    container = ContainerSource(host.hierarchies(), init=7)
    container.paths()
    host.process(7, "0::/c\n")
    shutil.rmtree(host.root / "sys/fs/cgroup/a/b")
    assert container.cpu_usage().user_ns == 3000
    assert container.paths() == {"": "/c"}


def test_a_removed_cgroup_is_gone(host):
    container = ContainerSource(host.hierarchies(), paths={"": "/a/b"}, started_ns=1)
    shutil.rmtree(host.root / "sys/fs/cgroup/a")
    with pytest.raises(Gone):
        container.cpu_usage()
    assert container.gone
    assert container.started_ns() == 1


def test_an_init_that_has_ended_is_gone(host):
    with pytest.raises(Gone):
        ContainerSource(host.hierarchies(), init=8)


def test_after_a_release_it_reads_on(host):
    container = ContainerSource(host.hierarchies(), init=7)
    container.cpu_limit()
    container.release()
    assert container.cpu_limit().quota == 1


def test_paths_alone_open_no_file_of_the_cgroup(host):
    container = ContainerSource(host.hierarchies(), init=7)
    assert container.paths() == {"": "/a/b"}
    host.process(7, "0::/c\n")
    assert container.paths() == {"": "/c"}
    assert not container.is_open


@pytest.mark.parametrize(("pids", "total"), [(None, 1), ("0\n", 1), ("90000\n", 90000)])
def test_the_first_load_is_what_is_known_without_a_count(tree, pids, total):
    tree.v2("pids")
    tree.cgroup("c", {} if pids is None else {"pids.current": pids})
    wanted = []
    container = ContainerSource(tree.hierarchies(), paths={"": "/c"}, want_load=wanted.append)
    for _ in range(2):
        assert container.load() == Load((0, 0, 0), running=1, total=total, last_pid=1)
    assert wanted == [container]


def test_the_first_load_on_v1_is_from_the_pids_hierarchy(tree):
    tree.v1("memory")
    tree.v1("pids")
    tree.cgroup("pids/c", {"pids.current": "7\n"})
    paths = {"memory": "/elsewhere", "pids": "/c"}
    made = ContainerSource(tree.hierarchies(), paths=paths, want_load=lambda _: None)
    assert made.load().total == 7


def test_the_first_load_goes_on_with_averages_that_were_handed_over(tree):
    tree.v2("pids")
    tree.cgroup("c", {"pids.current": "3\n"})
    wanted = []
    container = ContainerSource(tree.hierarchies(), paths={"": "/c"}, want_load=wanted.append)
    container.take_over_load(LoadState(Averages((2048, 4096, 1024)), 1))
    assert wanted == [container]
    assert container.load().averages == (1, 2, 0.5)


def test_the_load_of_the_hierarchys_root_is_the_hosts(tree):
    tree.v2("pids")
    made = ContainerSource(tree.hierarchies(), paths={"": "/"}, want_load=lambda _: None)
    assert made.load() is None


def test_the_clock_of_a_time_namespace_is_ahead_of_the_servers(tree):
    offsets = "monotonic 0 0\nboottime {} 0\n"
    tree.v2("memory")
    tree.process(42, "0::/c\n")
    container = ContainerSource(tree.hierarchies(), init=42)
    assert container.clock_offset_ns() == 0  # a kernel without time namespaces
    tree.write("proc/42/timens_offsets", offsets.format(1000))
    tree.write("proc/self/timens_offsets", offsets.format(0))
    assert container.clock_offset_ns() == 0  # a second has not passed
    assert ContainerSource(tree.hierarchies(), init=42).clock_offset_ns() == 1000 * NS_PER_S
    tree.write("proc/self/timens_offsets", offsets.format(1500))
    assert ContainerSource(tree.hierarchies(), init=42).clock_offset_ns() == -500 * NS_PER_S


def test_an_init_in_a_cgroup_too_deep_to_be_named_saw_the_host(host, monkeypatch):
    """Some kernels do not print a path of more than 4096 bytes (proc_cgroup_show, ENAMETOOLONG)."""

    def read(file):
        raise SourceError(f"{file.path}: File name too long")

    container = ContainerSource(host.hierarchies(), init=7)
    assert container.cpu_limit().quota == 1
    monkeypatch.setattr(PinnedFile, "read", read)
    assert container.cpu_limit().quota == 1
    with pytest.raises(SourceError):
        ContainerSource(host.hierarchies(), init=7).cpu_limit()
