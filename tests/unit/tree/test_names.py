"""Names, links and listings of both mounts, without a kernel."""

from __future__ import annotations

import errno
import stat

import pytest

from pylxcfs.errors import Refused
from pylxcfs.tree import nodes
from pylxcfs.tree.sysfs import CPU
from pylxcfs.views.model import Options, SysCpu
from tests.unit.tree.kit import MEMINFO, SECRET, A, World


def refusal(attempt: object) -> int:
    with pytest.raises(Refused) as caught:
        attempt()  # type: ignore[operator]
    return caught.value.errno


def names(world: World, index: int) -> set[bytes]:
    return {entry.name for entry in world.names.children(index, None)}


def test_the_root_has_links_and_the_directories_of_containers(world: World) -> None:
    assert names(world, nodes.ROOT) == {b"proc", b"sys", b"own"}
    assert names(world, nodes.PROC) == {
        b"meminfo", b"loadavg", b"cpuinfo", b"secret", b"pressure",
    }  # fmt: skip
    assert names(world, nodes.SYSTEM) == {b"cpu", b"node", b"memory"}
    for directory in (nodes.PROC, nodes.SYSTEM):
        for entry in world.names.children(directory, None):
            assert stat.S_ISLNK(entry.mode)
            assert entry.number in world.names.links


def test_a_view_has_files_where_the_root_has_links(world: World) -> None:
    assert names(world, nodes.VIEW_ROOT) == {b"proc", b"sys"}
    assert names(world, nodes.VIEW_PROC) == names(world, nodes.PROC)
    assert names(world, nodes.VIEW_PRESSURE) == {b"cpu"}
    assert names(world, nodes.VIEW_SYSTEM) == names(world, nodes.SYSTEM)


def test_each_link_leads_to_what_is_at_the_same_path_of_a_view(world: World) -> None:
    """`MOUNT/proc/pressure` is one link to a directory, so that it can be bound."""
    assert world.names.links[nodes.PRESSURE_LINK] == "proc/pressure"
    for link, path in world.names.links.items():
        index = nodes.VIEW_ROOT
        for name in path.split("/"):
            index = world.names.child(index, name.encode(), None)
        assert stat.S_ISLNK(world.names.mode(link))
        assert not stat.S_ISLNK(world.names.mode(index))


def test_a_file_that_the_host_has_not_is_not_served(world: World) -> None:
    for directory in (nodes.PROC, nodes.VIEW_PROC):
        assert refusal(lambda d=directory: world.names.child(d, b"missing", None)) == errno.ENOENT


@pytest.mark.parametrize("directory", [nodes.ROOT, nodes.PROC, nodes.OWN, nodes.VIEW_PROC])
@pytest.mark.parametrize("name", [b"", b".", b"..", b"nothing", b"\xff\xfe"])
def test_other_names_are_not_found(world: World, directory: int, name: bytes) -> None:
    assert refusal(lambda: world.names.child(directory, name, None)) == errno.ENOENT


def test_names_that_are_hidden_from_a_container_are_there_for_the_host(world: World) -> None:
    cpus = world.names.child(nodes.VIEW_SYSTEM, b"cpu", None)
    container = world.containers.live[A, 0]
    assert refusal(lambda: world.names.child(cpus, b"cpu1", container)) == errno.ENOENT
    assert world.names.child(cpus, b"cpu1", None)
    assert b"cpu1" not in {entry.name for entry in world.names.children(cpus, container)}
    assert b"cpu1" in names(world, cpus)


def test_no_name_is_hidden_where_cpus_are_shown_offline_or_nothing_is_virtual(
    world: World,
) -> None:
    cpus = world.names.child(nodes.VIEW_SYSTEM, b"cpu", None)
    container = world.containers.live[A, 0]
    world.contents.virtual = False
    assert world.names.child(cpus, b"cpu1", container)
    world.contents.virtual = True
    world.contents.options = Options(sys_cpu=SysCpu.OFFLINE)
    assert world.names.child(cpus, b"cpu1", container)


def test_a_link_of_sysfs_has_the_hosts_target(world: World) -> None:
    index = world.contents.sysfs.index(f"{CPU}/cpu0/subsystem")
    assert index is not None
    assert stat.S_ISLNK(world.names.mode(index))
    assert world.names.target(index) == b"../../cpu"


def test_what_is_no_link_or_no_directory_is_refused(world: World) -> None:
    online = world.contents.sysfs.index(f"{CPU}/online")
    assert online is not None
    assert refusal(lambda: world.names.target(online)) == errno.EINVAL
    assert refusal(lambda: world.names.target(nodes.PROC)) == errno.EINVAL
    assert refusal(lambda: world.names.children(online, None)) == errno.ENOTDIR
    assert refusal(lambda: world.names.children(nodes.FILES, None)) == errno.ENOTDIR


def test_what_went_away_is_stale(world: World) -> None:
    path = world.root / CPU / "cpu1/topology/core_id"
    index = world.contents.sysfs.index(f"{CPU}/cpu1/topology/core_id")
    assert index is not None
    world.next_server()
    path.unlink()
    assert refusal(lambda: world.names.mode(index)) == errno.ESTALE
    assert refusal(lambda: world.names.children(index, None)) == errno.ESTALE
    assert refusal(lambda: world.names.target(index)) == errno.ESTALE


@pytest.mark.parametrize("index", [3, 8, 63, 127, 140, 255, nodes.INDEX_LIMIT - 1])
def test_a_number_that_nothing_has_is_stale(world: World, index: int) -> None:
    assert refusal(lambda: world.names.mode(index)) == errno.ESTALE


def test_modes_are_the_hosts_and_never_writable(world: World) -> None:
    assert stat.S_IMODE(world.names.mode(MEMINFO)) == 0o444
    assert stat.S_IMODE(world.names.mode(SECRET)) == 0o400
    (world.root / "proc/meminfo").chmod(0o600)
    assert stat.S_IMODE(world.names.mode(MEMINFO)) == 0o444  # remembered
    world.names.forget_modes()
    assert stat.S_IMODE(world.names.mode(MEMINFO)) == 0o400
