"""One daemon for all clients, and the container that most of them run in: 1 CPU, 2 GiB."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.clients.engines import newer_engines_path
from tests.conftest import require, require_fuse
from tests.kit.container import Container
from tests.kit.daemon import Daemon

#: 2 GiB, and less where the host itself has no more: it would see the host's.
HOST_MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
MEMORY = min(2 << 30, HOST_MEMORY // 2 >> 20 << 20)


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    """`pylxcfs mount` with load averages, for the whole lane."""
    require_fuse()
    with Daemon("--enable-loadavg") as running:
        yield running


@pytest.fixture(scope="session")
def hiding() -> Iterator[Daemon]:
    """A second daemon for the whole lane: `nproc --all` of BusyBox tells its CPUs, too."""
    require_fuse()
    with Daemon("--enable-loadavg", "--sys-cpu=hide") as running:
        yield running


@pytest.fixture(scope="session")
def newer_engines() -> str:
    """A PATH with Docker 28 and containerd 2, which are fetched and not installed."""
    return newer_engines_path()


@pytest.fixture(scope="session")
def small(daemon: Daemon) -> Iterator[Container]:
    """1 CPU and 2 GiB. Nothing runs in it but what a test starts."""
    with Container(daemon.mountpoint, memory=MEMORY, cpus=1) as container:
        yield container


@pytest.fixture
def program() -> object:
    """Return a function that finds a program or ends the test."""

    def find(name: str, feature: str = "clients") -> str:
        path = shutil.which(name)
        return path or require(feature, f"there is no {name} on PATH")

    return find
