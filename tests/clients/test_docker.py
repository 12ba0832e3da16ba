"""Docker, with daemons of our own: the one that is installed, and Docker 28 for CDI."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.engines import (
    MEMORY,
    REPORT,
    busybox_root,
    check_report,
    open_directory,
    programs,
    pylxcfs,
    remove_cgroups,
)
from tests.conftest import run_name, wait_until
from tests.kit.daemon import Daemon

IMAGE = "pylxcfs-test:1"
LIMITS = ["--network=none", "--memory", str(MEMORY), "--cpus=1"]


class Docker:
    """A Docker daemon on directories of its own, without network.

    `path`: where its programs are looked for. `daemon_json`: its configuration file.
    """

    def __init__(self, directory: Path, path: str, daemon_json: str, *options: str) -> None:
        self.directory = directory
        self.socket = f"unix://{directory}/sock"
        self.cgroup = run_name(f"docker-{directory.name}")
        self._environ = {**os.environ, "PATH": path}
        self._options = options
        self._file = directory / "daemon.json"
        self._file.write_text(daemon_json)

    def __enter__(self) -> Docker:
        self._log = open(self.directory / "log", "wb")
        self._process = subprocess.Popen(
            [
                # The shell looks for it on the PATH that is given.
                *("sh", "-c", 'exec dockerd "$@"', "sh"),
                *("--bridge=none", "--iptables=false", "--storage-driver=vfs"),
                # With cgroup v2, too, where systemd would be asked to make the cgroups.
                *("--exec-opt", "native.cgroupdriver=cgroupfs"),
                f"--cgroup-parent=/{self.cgroup}",
                f"--config-file={self._file}",
                f"--data-root={self.directory}/data",
                f"--exec-root={self.directory}/exec",
                f"--pidfile={self.directory}/pid",
                f"--host={self.socket}",
                *self._options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=self._environ,
        )
        try:
            wait_until(self._answers, 60, what="dockerd to answer")
            root = busybox_root(self.directory / "root")
            tar = subprocess.run(["tar", "-C", root, "-c", "."], check=True, capture_output=True)
            self.command("import", "-", IMAGE, input=tar.stdout)
        except BaseException as error:
            error.add_note((self.directory / "log").read_text()[-4000:])
            self.__exit__()
            raise
        return self

    def _answers(self) -> bool:
        assert self._process.poll() is None, "dockerd ended"
        return self.command("version", check=False).returncode == 0

    def command(
        self, *argv: str, check: bool = True, input: bytes | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            ["sh", "-c", 'exec docker "$@"', "sh", "-H", self.socket, *argv],
            input=input,
            capture_output=True,
            timeout=timeout,
            env=self._environ,
        )
        if check and done.returncode:
            raise AssertionError(f"docker {argv}: {done.stderr.decode()}")
        return done

    def report(self, *options: str) -> bytes:
        """Return what REPORT prints in a new container with limits."""
        run = ["run", "--rm", *LIMITS, *options, IMAGE, "sh", "-c", REPORT]
        return self.command(*run).stdout

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=60)
        self._log.close()
        remove_cgroups(self.cgroup)


@pytest.fixture(scope="module")
def daemon(hiding: Daemon) -> Daemon:
    return hiding


@pytest.fixture(scope="module")
def docker(daemon: Daemon) -> Iterator[Docker]:
    """The one that is installed, with the runtime of ours."""
    programs("docker", "dockerd", "docker")
    runtimes = pylxcfs(daemon, "oci-runtime", "--daemon-json")
    with (
        open_directory() as directory,
        Docker(directory, os.environ["PATH"], runtimes) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def newer(daemon: Daemon, newer_engines: str) -> Iterator[Docker]:
    """Docker 28, with the runtime of ours and a directory of CDI specifications."""
    runtimes = pylxcfs(daemon, "oci-runtime", "--daemon-json")
    with open_directory() as directory:
        (directory / "cdi").mkdir()
        options = [f"--cdi-spec-dir={directory}/cdi", "--ip6tables=false"]
        with Docker(directory, newer_engines, runtimes, *options) as running:
            # While it runs: it is not restarted for a new specification.
            pylxcfs(daemon, "cdi", "install", "--directory", str(directory / "cdi"))
            yield running


def printed_binds(daemon: Daemon) -> list[str]:
    """Return the `-v X` of the line for Docker that the daemon printed."""
    (line,) = [line for line in daemon.log.splitlines() if "docker run" in line]
    words = shlex.split(line)
    found = [word for at, word in enumerate(words) if "-v" in (word, words[at - 1])]
    assert found, line
    return found


def test_the_printed_line_gives_a_container_its_own_files(daemon: Daemon, docker: Docker) -> None:
    check_report(docker.report(*printed_binds(daemon)))


def test_docker_args_gives_a_container_its_own_files(daemon: Daemon, docker: Docker) -> None:
    check_report(docker.report(*pylxcfs(daemon, "docker-args").split()))


def test_the_runtime_gives_a_container_its_own_files(docker: Docker) -> None:
    check_report(docker.report("--runtime=pylxcfs"), everything=True)


def test_docker_exec_works_with_the_runtime(docker: Docker) -> None:
    run = docker.command("run", "--detach", "--runtime=pylxcfs", *LIMITS, IMAGE, "sleep", "1000")
    name = run.stdout.decode().strip()
    try:
        report = docker.command("exec", name, "sh", "-c", REPORT).stdout
        check_report(report, everything=True)
    finally:
        docker.command("rm", "--force", name)


def test_docker_exec_sees_the_same_container(daemon: Daemon, docker: Docker) -> None:
    binds = printed_binds(daemon)
    run = docker.command("run", "--detach", *LIMITS, *binds, IMAGE, "sleep", "1000")
    name = run.stdout.decode().strip()
    try:
        check_report(docker.command("exec", name, "sh", "-c", REPORT).stdout)
        docker.command("update", "--memory", str(MEMORY // 2), "--memory-swap", "-1", name)

        def total() -> bytes:
            shown = docker.command("exec", name, "head", "-n1", "/proc/meminfo").stdout
            return shown.split()[1]

        wait_until(lambda: total() == b"%d" % (MEMORY // 2 >> 10), what="the new limit")
    finally:
        docker.command("rm", "--force", name)


def test_cdi_gives_a_container_its_own_files(newer: Docker) -> None:
    check_report(newer.report("--device=pylxcfs.io/view=all"), everything=True)


def test_the_newer_docker_takes_the_runtime_and_the_arguments(
    daemon: Daemon, newer: Docker
) -> None:
    check_report(newer.report("--runtime=pylxcfs"), everything=True)
    check_report(newer.report(*pylxcfs(daemon, "docker-args").split()))
