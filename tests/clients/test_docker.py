"""Docker: the line that `pylxcfs mount` prints, with a daemon of our own."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.engines import MEMORY, REPORT, busybox_root, check_report, remove_cgroups
from tests.conftest import require, run_name, wait_until
from tests.kit.daemon import Daemon

IMAGE = "pylxcfs-test:1"


class Docker:
    """A Docker daemon on directories of its own, without network."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = f"unix://{directory}/sock"
        self.cgroup = run_name("docker")

    def __enter__(self) -> Docker:
        self._log = open(self.directory / "log", "wb")
        self._process = subprocess.Popen(
            [
                "dockerd",
                *("--bridge=none", "--iptables=false", "--storage-driver=vfs"),
                # With cgroup v2, too, where systemd would be asked to make the cgroups.
                *("--exec-opt", "native.cgroupdriver=cgroupfs"),
                f"--cgroup-parent=/{self.cgroup}",
                f"--data-root={self.directory}/data",
                f"--exec-root={self.directory}/exec",
                f"--pidfile={self.directory}/pid",
                f"--host={self.socket}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        try:
            wait_until(self._answers, 60, what="dockerd to answer")
        except BaseException as error:
            error.add_note((self.directory / "log").read_text()[-4000:])
            self.__exit__()
            raise
        return self

    def _answers(self) -> bool:
        assert self._process.poll() is None, "dockerd ended"
        return self.command("version", check=False).returncode == 0

    def command(
        self, *argv: str, check: bool = True, input: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            ["docker", "-H", self.socket, *argv], input=input, capture_output=True, timeout=120
        )
        if check and done.returncode:
            raise AssertionError(f"docker {argv}: {done.stderr.decode()}")
        return done

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=60)
        self._log.close()
        remove_cgroups(self.cgroup)


@pytest.fixture(scope="module")
def daemon(hiding: Daemon) -> Daemon:
    return hiding


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    for name in ("dockerd", "docker"):
        if shutil.which(name) is None:
            require("docker", f"there is no {name} on PATH")
    # A socket's path must be short.
    directory = tmp_path_factory.mktemp("docker")
    root = busybox_root(directory / "root")
    tar = subprocess.run(["tar", "-C", root, "-c", "."], check=True, capture_output=True).stdout
    with Docker(directory) as running:
        running.command("import", "-", IMAGE, input=tar)
        yield running


def printed_binds(daemon: Daemon) -> list[str]:
    """Return the `-v X` of the line for Docker that the daemon printed."""
    (line,) = [line for line in daemon.log.splitlines() if "docker run" in line]
    words = shlex.split(line)
    found = [word for at, word in enumerate(words) if "-v" in (word, words[at - 1])]
    assert found, line
    return found


def test_the_printed_line_gives_a_container_its_own_files(daemon: Daemon, docker: Docker) -> None:
    limits = ["--network=none", "--memory", str(MEMORY), "--cpus=1"]
    binds = printed_binds(daemon)
    done = docker.command("run", "--rm", *limits, *binds, IMAGE, "sh", "-c", REPORT)
    check_report(done.stdout)


def test_docker_exec_sees_the_same_container(daemon: Daemon, docker: Docker) -> None:
    limits = ["--network=none", "--memory", str(MEMORY), "--cpus=1"]
    binds = printed_binds(daemon)
    run = docker.command("run", "--detach", *limits, *binds, IMAGE, "sleep", "1000")
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
