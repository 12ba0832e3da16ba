"""Directories of devices on both mounts, in a made sysfs; containers behind the port are values."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylxcfs.attach import runtime, views
from pylxcfs.fuse import wire
from pylxcfs.tree import nodes
from pylxcfs.views import VIEWS
from tests.kit.sysfs import MadeSysfs, char
from tests.unit.tree.kit import A_PID, B_PID, HOST, HOST_PID, A, B, FakeKnown, World

INFINIBAND = "sys/class/infiniband"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Container A may open port 1, B port 2."""
    world = World(tmp_path, devices=True)
    MadeSysfs(tmp_path)
    world.next_server()
    for n, pidns in enumerate((A, B), 1):
        world.containers.live[pidns, 0].devices_ = frozenset({char(231, 192 + n)})
    yield world
    world.close()


def test_a_container_has_a_directory_of_its_own(world: World) -> None:
    for n, (pidns, pid) in enumerate(((A, A_PID), (B, B_PID)), 1):
        link = world.own.readlink(world.own.walk(INFINIBAND), pid)
        assert link == f"../../{world.directory(pidns)}/{INFINIBAND}".encode()
        directory = world.file(pidns, INFINIBAND)
        # Whoever lists it: the directory is the container's.
        assert world.own.names(directory, pid) == world.own.names(directory, HOST_PID)
        assert world.own.names(directory, pid) == [b"mlx5_%d" % n]
        entry = world.own.lookup(directory, b"mlx5_%d" % n)
        target = os.readlink(world.root / INFINIBAND / f"mlx5_{n}")
        assert world.own.readlink(entry.node) == target.encode()
        assert world.own.error(wire.LOOKUP, directory, pid, b"mlx5_0\0") == errno.ENOENT


def test_the_caller_mount_lists_for_its_opener_and_names_are_the_same_for_all(
    world: World,
) -> None:
    mount = world.caller_mount
    directory = nodes.ROOT
    for name in INFINIBAND.split("/"):
        directory = mount.lookup(directory, name.encode())
    for n, pid in enumerate((A_PID, B_PID), 1):
        handle = mount.open_directory(directory, pid)
        assert [entry.name for entry in mount.entries(handle)] == [b"mlx5_%d" % n]
    assert len(mount.entries(mount.open_directory(directory, HOST_PID))) == 5


def test_processes_of_the_host_list_for_their_own_cgroups(world: World) -> None:
    mount = world.caller_mount
    directory = nodes.ROOT
    for name in INFINIBAND.split("/"):
        directory = mount.lookup(directory, name.encode())
    for n, pid in ((1, 101), (2, 102)):
        world.containers.processes[pid] = (HOST, 0)
        limited = FakeKnown(devices_=frozenset({char(231, 192 + n)}))
        world.containers.host_cgroups[pid] = limited
    handles = [mount.open_directory(directory, pid) for pid in (101, 102, 101)]
    assert len(set(handles)) == 3
    seen = [[entry.name for entry in mount.entries(handle)] for handle in handles]
    assert seen == [[b"mlx5_1"], [b"mlx5_2"], [b"mlx5_1"]]
    assert all(nodes.unpack(nodes.pair_of(handle)).pidns == HOST for handle in handles)
    mount.close_directory(handles[0])
    world.next_server()
    for handle in handles:
        assert len(world.caller_mount.entries(handle)) == 5


def test_the_next_server_understands_the_numbers(world: World) -> None:
    directory = world.file(A, INFINIBAND)
    link = world.own.lookup(directory, b"mlx5_1").node
    target = world.own.readlink(link)
    world.next_server()
    assert world.own.readlink(link) == target
    assert world.own.names(directory) == [b"mlx5_1"]


def test_without_the_option_there_is_none(tmp_path: Path) -> None:
    MadeSysfs(tmp_path)
    world = World(tmp_path)
    assert world.own.names(world.own.walk("sys")) == [b"devices"]
    world.close()


def test_numbers_of_links_are_each_used_once() -> None:
    assert len(VIEWS) <= nodes.DEVICE_LINKS - nodes.LINKS
    assert len(nodes.DEVICES_OF_SYSFS) <= nodes.FILES - nodes.DEVICE_LINKS
    # Mounts that outlive an upgrade have these.
    assert nodes.DEVICES_OF_SYSFS[9] == INFINIBAND
    _, links = nodes.names(dict.fromkeys(nodes.DEVICES_OF_SYSFS, nodes.SYSFS + 1))
    assert links[nodes.DEVICE_LINKS + 9] == INFINIBAND


def test_the_runtime_that_imports_nothing_knows_the_same_paths() -> None:
    assert set(runtime.DEVICES) == set(views.DEVICES)
    assert set(runtime.PATHS) == set(views.paths())
