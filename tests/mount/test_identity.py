"""Each container reads its own values, and the host those of its cgroup and any container's."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylxcfs.resources.query import Query
from tests.conftest import wait_until
from tests.kit.cgroups import Cgroup
from tests.kit.container import Container
from tests.kit.daemon import Daemon
from tests.kit.deadleader import dead_leader

A, B = 1 << 30, 2 << 30


@pytest.fixture(scope="module", params=["auto", "scm"])
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    with Daemon("--init-pid-method", request.param) as running:
        yield running


@pytest.fixture(scope="module")
def pair(daemon: Daemon) -> Iterator[tuple[Container, Container]]:
    with (
        Container(daemon.mountpoint, memory=A) as first,
        Container(daemon.mountpoint, memory=B) as second,
    ):
        yield first, second


def total(text: bytes) -> int:
    return int(text.split()[1]) * 1024


def host_total() -> int:
    return total(Path("/proc/meminfo").read_bytes())


def on_host(path: Path) -> bytes:
    return subprocess.run(["cat", path], capture_output=True, timeout=30, check=True).stdout


def node(daemon: Daemon, container: Container) -> Path:
    return daemon.mountpoint / f"own/{container.key}/proc/meminfo"


def test_each_container_reads_its_own(pair: tuple[Container, Container]) -> None:
    assert [total(container.read("/proc/meminfo")) for container in pair] == [A, B]


def test_the_host_reads_its_own_and_any_containers(
    daemon: Daemon, pair: tuple[Container, Container]
) -> None:
    assert total(on_host(daemon.mountpoint / "proc/meminfo")) == host_total()
    assert total(on_host(node(daemon, pair[0]))) == A
    assert total(on_host(node(daemon, pair[1]))) == B


def test_a_container_reads_its_own_on_the_hosts_node(daemon: Daemon) -> None:
    with Container(daemon.mountpoint, memory=A, bind="host") as container:
        assert total(container.read("/proc/meminfo")) == A


def test_a_nested_pid_namespace_reads_its_own_on_inherited_mounts(
    pair: tuple[Container, Container],
) -> None:
    nested = ["unshare", "--pid", "--fork", "--kill-child", "cat", "/proc/meminfo"]
    assert total(pair[0].exec(nested).stdout) == A


def test_a_host_process_in_a_limited_cgroup_reads_its_own(daemon: Daemon) -> None:
    with Cgroup() as cgroup:
        cgroup.limits(memory=A)
        text = cgroup.run(["cat", str(daemon.mountpoint / "proc/meminfo")])
    assert total(text) == A


@pytest.mark.parametrize("is_init", [True, False])
def test_a_main_thread_that_has_ended_takes_no_limits_with_it(
    daemon: Daemon, is_init: bool
) -> None:
    """v1 prints "/" for it. Files and the library, for a container and a process of the host."""
    file = daemon.mountpoint / "proc/meminfo"
    with (
        Cgroup() as cgroup,
        contextlib.closing(Query()) as query,
        dead_leader(cgroup, is_init=is_init) as process,
    ):
        cgroup.limits(memory=A)
        process.end_main()
        assert total(process.read(file)) == A
        assert query.of(process.pid).memory.limit_bytes == A


def names(directory: Path) -> set[str]:
    listed = subprocess.run(["ls", directory], capture_output=True, timeout=30, check=True)
    return set(listed.stdout.decode().split())


def test_the_host_lists_the_containers_that_live(daemon: Daemon) -> None:
    with Container(daemon.mountpoint, memory=A) as container:
        key = container.key
        container.read("/proc/meminfo")
        assert {"host", key} <= names(daemon.mountpoint / "own")
        assert names(daemon.mountpoint / "own" / key) == {"proc", "sys"}
    wait_until(lambda: key not in names(daemon.mountpoint / "own"), 30, what="the key to be gone")


def test_the_host_links_lead_to_the_caller_mount(daemon: Daemon) -> None:
    for name in ("proc/meminfo", "proc/pressure/cpu", "sys/devices/system/cpu"):
        if Path("/", name).exists():
            path = subprocess.run(
                ["readlink", "-f", daemon.mountpoint / name], capture_output=True, timeout=30
            ).stdout.decode()
            wanted = f"{daemon.runtime_dir}/caller/{name}\n"
            host = f"{daemon.mountpoint}/own/host/{name}\n"
            assert path in (wanted, host)
