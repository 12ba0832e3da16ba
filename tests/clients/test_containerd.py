"""containerd's CRI, with daemons of our own: the one that is installed, and containerd 2."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cri_api.v1.api_pb2 import CDIDevice

from tests.clients.engines import FILES, REPORT, check_report, open_directory, programs, pylxcfs
from tests.kit.cri import HANDLER, Containerd
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
        with Containerd(directory, newer_engines, cdi=directory / "cdi") as running:
            yield running


def volumes(daemon: Daemon) -> dict[str, str]:
    """Return a pod's volumes: paths of the host by their places."""
    paths = [f"proc/{name}" for name in FILES] + ["sys/devices/system/cpu"]
    return {f"/{path}": f"{daemon.mountpoint}/{path}" for path in paths}


def report(containerd: Containerd, **settings: Any) -> bytes:
    """Return what REPORT prints in a new pod's container with limits."""
    pod = containerd.pod(**settings)
    try:
        return pod.output(REPORT)
    finally:
        pod.end()


def test_a_pods_volumes_are_of_the_caller_mount(daemon: Daemon, containerd: Containerd) -> None:
    check_report(report(containerd, volumes=volumes(daemon)), node="caller")


def test_a_runtime_handler_gives_a_container_its_own_files(containerd: Containerd) -> None:
    check_report(report(containerd, handler=HANDLER), everything=True)


def test_cdi_gives_a_container_its_own_files(newer: Containerd) -> None:
    device = CDIDevice(name="pylxcfs.io/view=all")
    check_report(report(newer, CDI_devices=[device]), everything=True)


def test_the_newer_containerd_takes_the_handler_and_volumes(
    daemon: Daemon, newer: Containerd
) -> None:
    check_report(report(newer, handler=HANDLER), everything=True)
    check_report(report(newer, volumes=volumes(daemon)), node="caller")
