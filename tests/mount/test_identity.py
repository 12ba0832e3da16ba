"""Who reads decides what is read, whichever node the reader has in its hands."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.cgroups import Cgroup
from tests.kit.container import Container
from tests.kit.daemon import Daemon

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
    return daemon.mountpoint / f"by-pidns/{container.pidns}/proc/meminfo"


def test_each_container_reads_its_own(pair: tuple[Container, Container]) -> None:
    assert [total(container.read("/proc/meminfo")) for container in pair] == [A, B]


def test_the_host_reads_its_own_and_any_containers(
    daemon: Daemon, pair: tuple[Container, Container]
) -> None:
    assert total(on_host(daemon.mountpoint / "proc/meminfo")) == host_total()
    assert total(on_host(node(daemon, pair[0]))) == A
    assert total(on_host(node(daemon, pair[1]))) == B


def test_a_container_reads_its_own_on_anothers_node(
    daemon: Daemon, pair: tuple[Container, Container]
) -> None:
    first, second = pair
    assert total(second.read(str(node(daemon, first)))) == B
    assert total(first.read("/proc/meminfo")) == A


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


def test_an_ended_containers_directory_is_gone(daemon: Daemon) -> None:
    with Container(daemon.mountpoint, memory=A) as container:
        path = node(daemon, container)
        container.read("/proc/meminfo")
        listed = subprocess.run(
            ["ls", daemon.mountpoint / "by-pidns"], capture_output=True, timeout=30, check=True
        ).stdout.split()
        assert str(container.pidns).encode() in listed
    missing = subprocess.run(
        ["ls", "-d", path.parents[1].with_name("4026999999")], capture_output=True, timeout=30
    )
    assert missing.returncode != 0


def test_writing_is_refused(pair: tuple[Container, Container]) -> None:
    refused = pair[0].exec(["sh", "-c", "echo 1 >/proc/meminfo"], check=False)
    assert refused.returncode != 0
