"""containerd's CRI, with daemons of our own: the one that is installed, and containerd 2."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.cri import HANDLER, Containerd
from tests.clients.engines import FILES, check_report, open_directory, programs, pylxcfs
from tests.kit.daemon import Daemon


@pytest.fixture(scope="module")
def daemon(hiding: Daemon) -> Daemon:
    return hiding


def base(daemon: Daemon, directory: Path, path: str) -> None:
    """Write the specification of the handler: containerd's own, with the hook."""
    ctr = ["sh", "-c", "exec ctr oci spec"]
    environ = {**os.environ, "PATH": path}
    text = subprocess.run(ctr, check=True, capture_output=True, timeout=60, env=environ).stdout
    (directory / "base.json").write_bytes(text)
    pylxcfs(daemon, "oci-spec", "--no-mounts", "--patch", str(directory / "base.json"))


@pytest.fixture(scope="module")
def containerd(daemon: Daemon) -> Iterator[Containerd]:
    """The one that is installed."""
    programs("clients", "containerd", "ctr", "runc")
    with open_directory() as directory:
        base(daemon, directory, os.environ["PATH"])
        with Containerd(directory, os.environ["PATH"]) as running:
            yield running


@pytest.fixture(scope="module")
def newer(daemon: Daemon, newer_engines: str) -> Iterator[Containerd]:
    programs("clients", "runc")
    with open_directory() as directory:
        base(daemon, directory, newer_engines)
        pylxcfs(daemon, "cdi", "install", "--directory", str(directory / "cdi"))
        with Containerd(directory, newer_engines, directory / "cdi") as running:
            yield running


def mounts(daemon: Daemon) -> list[tuple[str, str]]:
    """Return host paths and places of a pod's volumes."""
    paths = [f"proc/{name}" for name in FILES] + ["sys/devices/system/cpu"]
    return [(f"{daemon.mountpoint}/{path}", f"/{path}") for path in paths]


def test_a_pods_volumes_are_of_the_caller_mount(daemon: Daemon, containerd: Containerd) -> None:
    check_report(containerd.report(mounts=mounts(daemon)), node="caller")


def test_a_runtime_handler_gives_a_container_its_own_files(containerd: Containerd) -> None:
    check_report(containerd.report(handler=HANDLER), everything=True)


def test_cdi_gives_a_container_its_own_files(newer: Containerd) -> None:
    check_report(newer.report(devices=["pylxcfs.io/view=all"]), everything=True)


def test_the_newer_containerd_takes_the_handler_and_volumes(
    daemon: Daemon, newer: Containerd
) -> None:
    check_report(newer.report(handler=HANDLER), everything=True)
    check_report(newer.report(mounts=mounts(daemon)), node="caller")
