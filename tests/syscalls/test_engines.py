"""The agent with engines: profiles that the command writes, and the runtime of ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import newer_engines  # noqa: F401  a fixture
from tests.clients.engines import FILES, MEMORY, open_directory, programs, pylxcfs
from tests.clients.test_docker import IMAGE, LIMITS, Docker, printed_binds
from tests.clients.test_podman import Podman, place, podman  # noqa: F401  fixtures
from tests.kit.cri import Containerd
from tests.kit.daemon import Daemon

ASK = ("/bin/sh", "-c", "nproc; busybox free -k")


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon("--seccomp-agent") as running:
        yield running


@pytest.fixture
def profile(daemon: Daemon, tmp_path: Path) -> str:
    path = tmp_path / "profile.json"
    pylxcfs(daemon, "seccomp-profile", "--base", "podman", "--output", str(path))
    return str(path)


def check_answers(output: bytes) -> None:
    """Check what ASK printed in a container with one CPU."""
    lines = output.decode().splitlines()
    assert lines[0] == "1", lines
    assert int(lines[2].split()[1]) == MEMORY >> 10, lines


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_podman_with_the_profile(
    daemon: Daemon,
    profile: str,
    runtime: str,
    podman: Podman,  # noqa: F811
) -> None:
    options = ["--security-opt", f"seccomp={profile}", *printed_binds(daemon)]
    done = podman(runtime, *options, argv=ASK)
    assert done.returncode == 0, done.stderr.decode()
    check_answers(done.stdout)


def test_docker_that_drops_the_listener_with_the_runtime_of_ours(daemon: Daemon) -> None:
    programs("docker", "dockerd", "docker")
    runtimes = pylxcfs(daemon, "oci-runtime", "--daemon-json", "--syscalls")
    with open_directory() as directory, Docker(directory, os.environ["PATH"], runtimes) as docker:
        run = ("run", "--rm", "--runtime=pylxcfs", *LIMITS, IMAGE)
        check_answers(docker.command(*run, *ASK).stdout)


def test_the_newer_docker_with_the_profile(
    daemon: Daemon,
    profile: str,
    newer_engines: str,  # noqa: F811
) -> None:
    with open_directory() as directory, Docker(directory, newer_engines, "{}") as docker:
        run = ("run", "--rm", "--security-opt", f"seccomp={profile}", *LIMITS)
        check_answers(docker.command(*run, *printed_binds(daemon), IMAGE, *ASK).stdout)


def test_containerds_cri_with_a_localhost_profile(daemon: Daemon, profile: str) -> None:
    programs("clients", "containerd", "ctr", "runc")
    volumes = {f"/proc/{name}": f"{daemon.mountpoint}/proc/{name}" for name in FILES}
    with open_directory() as directory, Containerd(directory, os.environ["PATH"]) as containerd:
        check_answers(containerd.pod(volumes=volumes, seccomp=profile).output(ASK[-1]))
