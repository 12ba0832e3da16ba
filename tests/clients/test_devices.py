"""Devices of Docker's containers (`--device`), in each way that Docker takes the directories."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylxcfs.sources.procfs import HostFiles
from pylxcfs.tree.nodes import DEVICES_OF_SYSFS
from pylxcfs.views import devices
from pylxcfs.views.model import Options
from tests.clients.engines import open_directory, programs, pylxcfs
from tests.clients.test_docker import IMAGE, LIMITS, Docker
from tests.conftest import require, require_fuse, wait_until
from tests.kit.cgroups import is_v2
from tests.kit.daemon import Daemon
from tests.kit.sysfs import MadeSysfs, char
from tests.unit.views.fakes import FakeContainer

#: Prints the names in a few directories, and whether the links resolve.
SHOW = """
for path in class/mem class/block block class/misc class/tty dev/block; do
  echo "$path:" $(busybox ls /sys/$path)
done
for link in /sys/class/mem/* /sys/class/block/* /sys/block/* /sys/dev/block/*; do
  case $link in *'*') continue ;; esac  # nothing is there
  cat $link/dev >/dev/null || echo dead: $link
done
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    require_fuse()
    with Daemon("--enable-devices") as running:
        yield running


@pytest.fixture(scope="module")
def docker(daemon: Daemon) -> Iterator[Docker]:
    programs("docker", "docker", "dockerd")
    if not os.path.exists("/dev/loop0"):
        require("docker", "this host has no /dev/loop0")
    runtimes = pylxcfs(daemon, "oci-runtime", "--daemon-json")
    with (
        open_directory() as directory,
        Docker(directory, os.environ["PATH"], runtimes) as running,
    ):
        yield running


def misc_of_all() -> set[str]:
    """Return what every container of runc may open of sys/class/misc."""
    return {"tun"} & set(os.listdir("/sys/class/misc"))


def shown(output: bytes) -> dict[str, set[str]]:
    assert b"dead" not in output, output
    lines = (line.partition(":") for line in output.decode().splitlines())
    return {path: set(names.split()) for path, _, names in lines}


@pytest.mark.parametrize("way", ["docker-args", "oci-runtime"])
def test_a_device_of_docker_run_is_the_one_that_shows(
    daemon: Daemon, docker: Docker, way: str
) -> None:
    words = ["--runtime=pylxcfs"]
    if way == "docker-args":
        words = pylxcfs(daemon, "docker-args").split()
    run = ["run", "--rm", *LIMITS, *words]
    given = ["--device=/dev/loop0", "--device=/dev/fuse"]
    found = shown(docker.command(*run, *given, IMAGE, "sh", "-c", SHOW).stdout)
    assert found["block"] == found["class/block"] == {"loop0"}
    assert found["dev/block"] == {"7:0"}
    assert found["class/misc"] == {"fuse"} | misc_of_all()
    assert found["class/mem"] == {"null", "zero", "full", "random", "urandom"}
    assert "ttyS0" not in found["class/tty"]
    without = shown(docker.command(*run, IMAGE, "sh", "-c", SHOW).stdout)
    assert without["block"] == set()
    assert without["class/misc"] == misc_of_all()


def test_a_container_that_may_open_all_devices_sees_all(daemon: Daemon, docker: Docker) -> None:
    words = [*pylxcfs(daemon, "docker-args").split(), "--device-cgroup-rule=a *:* rwm"]
    run = ["run", "--rm", *LIMITS, *words, IMAGE, "sh", "-c", SHOW]
    found = shown(docker.command(*run).stdout)
    assert found["block"] == set(os.listdir("/sys/block"))
    assert found["class/misc"] == set(os.listdir("/sys/class/misc"))


def test_a_device_that_is_allowed_later_shows(daemon: Daemon, docker: Docker) -> None:
    """As a device plugin or an administrator does; Docker itself changes no rules."""
    if is_v2():
        pytest.skip("v1's files; tests/cgroup has the programs of v2")
    words = pylxcfs(daemon, "docker-args").split()
    run = docker.command("run", "--detach", *LIMITS, *words, IMAGE, "sleep", "1000")
    name = run.stdout.decode().strip()
    try:
        cgroup = Path("/sys/fs/cgroup/devices") / docker.cgroup / name

        def misc() -> set[str]:
            listed = docker.command("exec", name, "busybox", "ls", "/sys/class/misc").stdout
            return set(listed.decode().split())

        assert "fuse" not in misc()
        (cgroup / "devices.allow").write_text("c 10:229 rw")
        wait_until(lambda: "fuse" in misc(), what="the device to show")
    finally:
        docker.command("rm", "--force", name)


def test_programs_that_look_for_hardware(daemon: Daemon, docker: Docker) -> None:
    """The host's lsblk and lspci, as far as they are static or have their libraries there."""
    if shutil.which("lsblk") is None:
        require("clients", "lsblk is not installed")
    words = pylxcfs(daemon, "docker-args").split()
    binds = [f"--volume={path}:{path}:ro" for path in ("/usr", "/lib", "/lib64")]
    run = ["run", "--rm", *LIMITS, *words, *binds, "--device=/dev/loop0", IMAGE]
    listed = docker.command(*run, "/usr/bin/lsblk", "--all", "--noheadings", "--output=NAME")
    assert listed.stdout.split() == [b"loop0"]
    if shutil.which("lspci") is not None and os.path.isdir("/sys/bus/pci/devices"):
        assert docker.command(*run, "/usr/bin/lspci").stdout == b""
        assert subprocess.run(["lspci"], capture_output=True, check=True).stdout


def seen_copy(made: MadeSysfs, container: FakeContainer, place: Path) -> Path:
    """Copy a sysfs with the links that a container sees; devices themselves are the same."""
    host = HostFiles(str(made.root))
    for path in DEVICES_OF_SYSFS:
        if (made.root / path).is_dir():
            (place / path).mkdir(parents=True)
            for name in os.listdir(made.root / path):
                if not devices.hidden(f"{path}/{name}", host, container, Options()):
                    copied = place / path / name
                    shutil.copy(made.root / path / name, copied, follow_symlinks=False)
    (place / "sys/devices").symlink_to(made.sys / "devices")
    return place / "sys"


#: ibv_devices with nodes of all four ports in /dev, as `docker run -v /dev/infiniband` has them.
IBV_DEVICES = """
mount -t tmpfs made /dev && mkdir /dev/infiniband && mknod /dev/null c 1 3 || exit 1
for n in 0 1 2 3; do mknod /dev/infiniband/uverbs$n c 231 $((192 + n)) || exit 1; done
exec ibv_devices
"""


def test_ibv_devices_lists_the_port_of_the_container(tmp_path: Path) -> None:
    """libibverbs and its driver for mlx5, in a sysfs that was made (tests/kit/sysfs.py)."""
    if shutil.which("ibv_devices") is None or not os.path.exists("/etc/libibverbs.d/mlx5.driver"):
        require("clients", "ibverbs-utils and ibverbs-providers are not installed")
    made = MadeSysfs(tmp_path / "made")
    container = FakeContainer(devices_=frozenset({char(231, 194)}))

    def listed(sys: Path) -> list[str]:
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", IBV_DEVICES],
            env={**os.environ, "SYSFS_PATH": str(sys)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return [line.split()[0] for line in done.stdout.splitlines()[2:]]

    assert sorted(listed(made.sys)) == [f"mlx5_{n}" for n in range(4)]
    assert listed(seen_copy(made, container, tmp_path / "seen")) == ["mlx5_2"]


def test_a_reader_of_gpus_finds_the_one_of_the_container(tmp_path: Path) -> None:
    """As monitors of GPUs do: card N, its PCI function, its render node."""
    made = MadeSysfs(tmp_path / "made")
    container = FakeContainer(devices_=frozenset({char(226, 129)}))
    drm = seen_copy(made, container, tmp_path / "seen") / "class/drm"
    cards = [path for path in drm.iterdir() if re.fullmatch(r"card\d+", path.name)]
    assert [card.name for card in cards] == ["card1"]
    function = cards[0].resolve().parents[1]
    assert (function / "subsystem").resolve().name == "pci"
    assert {path.name for path in (function / "drm").iterdir()} >= {"renderD129"}
    assert not (drm / "renderD128").exists()
    assert (drm / "renderD129/dev").read_text() == "226:129\n"
