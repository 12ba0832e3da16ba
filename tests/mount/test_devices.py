"""Directories of devices in containers: what programs see of this host's devices."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylxcfs.tree.nodes import DEVICES_OF_SYSFS
from tests.conftest import require, wait_until
from tests.kit import devices as kit
from tests.kit.cgroups import Cgroup
from tests.kit.container import Container
from tests.kit.daemon import ROOT, Daemon
from tests.kit.devices import USUAL, Allowed
from tests.mount.test_rescue import BROKEN, EXPECTED, give_up, recover

#: What every container may open, in sys/class/mem and sys/class/tty.
USUAL_MEM = {"null", "zero", "full", "random", "urandom"}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon("--enable-devices") as running:
        yield running


def directories() -> list[str]:
    return [path for path in DEVICES_OF_SYSFS if os.path.isdir(f"/{path}")]


@contextlib.contextmanager
def container(daemon: Daemon, *rules: Allowed, bind: str = "own") -> Iterator[Container]:
    """A container with the usual devices and some more."""
    with Cgroup() as cgroup:
        kit.allow_only(cgroup, [*USUAL, *rules])
        with Container(
            daemon.mountpoint,
            bind=bind,  # type: ignore[arg-type]
            files=["proc/meminfo", *directories()],
            cgroup=cgroup,
        ) as running:
            yield running


def names(running: Container, path: str) -> set[str]:
    return set(running.exec(["ls", f"/{path}"]).stdout.decode().split())


def a_disk() -> tuple[str, Allowed]:
    """Return a block device of this host, rather one that is hardware, and its rule."""
    disks = os.listdir("/sys/block")
    if not disks:
        require("clients", "this host has no block device")
    name = min(disks, key=lambda name: "/virtual/" in os.path.realpath(f"/sys/block/{name}"))
    major, minor = Path(f"/sys/block/{name}/dev").read_text().split(":")
    return name, Allowed("b", int(major), int(minor))


@pytest.mark.parametrize("bind", ["own", "host"])
def test_a_container_sees_the_devices_it_may_open(daemon: Daemon, bind: str) -> None:
    disk, rule = a_disk()
    with container(daemon, rule, bind=bind) as running:
        assert names(running, "sys/class/mem") == USUAL_MEM
        assert names(running, "sys/class/tty") == {"tty"}
        assert names(running, "sys/class/misc") == set()
        assert names(running, "sys/block") == names(running, "sys/class/block") == {disk}
        assert names(running, "sys/dev/block") == {f"{rule.major}:{rule.minor}"}
        assert "10:229" not in names(running, "sys/dev/char")
        assert "1:3" in names(running, "sys/dev/char")


def test_another_container_sees_others_at_the_same_time(daemon: Daemon) -> None:
    with container(daemon) as one, container(daemon, Allowed("c", 1, 11)) as other:
        for _ in range(3):
            assert names(one, "sys/class/mem") == USUAL_MEM
            assert names(other, "sys/class/mem") == {*USUAL_MEM, "kmsg"}


def test_every_link_resolves_in_the_containers_own_sys(daemon: Daemon) -> None:
    _, rule = a_disk()
    with container(daemon, rule) as running:
        for path in directories():
            command = f"for one in /{path}/*; do readlink $one; readlink -e $one || echo dead; done"
            lines = running.exec(["sh", "-c", command]).stdout.decode().split()
            if names(running, path):
                assert "dead" not in lines
                assert all(line.startswith(("../", "/sys/devices/")) for line in lines)


def test_a_hidden_name_does_not_exist(daemon: Daemon) -> None:
    with container(daemon) as running:
        assert running.exec(["ls", "/sys/class/mem/kmsg"], check=False).returncode != 0
        running.exec(["ls", "/sys/class/mem/null/dev"])


def test_changed_rules_show(daemon: Daemon) -> None:
    with container(daemon) as running:
        if not kit.has_v1(running.cgroup):
            pytest.skip("v1's files; tests/cgroup has the programs of v2")
        for _ in range(2):
            kit.allow(running.cgroup, Allowed("c", 1, 11))
            wait_until(lambda: "kmsg" in names(running, "sys/class/mem"), what="kmsg to show")
            running.exec(["ls", "/sys/class/mem/kmsg/dev"])
            kit.deny(running.cgroup, Allowed("c", 1, 11))
            wait_until(lambda: "kmsg" not in names(running, "sys/class/mem"), what="it to go")

            def gone() -> bool:
                return running.exec(["ls", "/sys/class/mem/kmsg"], check=False).returncode != 0

            wait_until(gone, what="its name to go")


def test_lsblk_lists_the_disk_of_the_container(daemon: Daemon) -> None:
    disk, rule = a_disk()
    with container(daemon, rule) as running:
        text = running.exec(["lsblk", "--noheadings", "--list", "--all", "--output=NAME"]).stdout
        assert disk in text.decode().split()
        hosts = subprocess.run(
            ["lsblk", "--noheadings", "--list", "--all", "--output=NAME"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert set(text.decode().split()) == {
            name for name in hosts.stdout.split() if name.startswith(disk)
        }


def test_lspci_lists_the_function_of_the_containers_disk(daemon: Daemon) -> None:
    if shutil.which("lspci") is None:
        require("clients", "lspci is not installed")
    if not os.path.isdir("/sys/bus/pci/devices") or not os.listdir("/sys/bus/pci/devices"):
        require("clients", "this host has no PCI device")
    disk, rule = a_disk()
    functions = [
        part
        for part in os.path.realpath(f"/sys/block/{disk}").split("/")
        if os.path.isdir(f"/sys/bus/pci/devices/{part}") and part.count(":") == 2
    ]
    if not functions:
        require("clients", "no disk of this host is a PCI device")
    with container(daemon, rule) as running:
        listed = running.exec(["lspci", "-D"]).stdout.decode().splitlines()
        assert [line.split()[0] for line in listed] == sorted(functions)
        assert len(listed) < len(os.listdir("/sys/bus/pci/devices"))


def test_a_job_on_the_host_sees_its_own(daemon: Daemon) -> None:
    """As a batch system's, in the host's namespaces: it has limits, and rules for devices."""
    with Cgroup() as cgroup:
        cgroup.limits(memory=256 << 20)
        kit.allow_only(cgroup, USUAL)
        listed = cgroup.run(["ls", f"{daemon.mountpoint}/sys/class/mem/"])
        assert set(listed.decode().split()) == USUAL_MEM


def test_the_host_sees_all(daemon: Daemon) -> None:
    for path in directories():
        shown = os.listdir(f"{daemon.mountpoint}/{path}")
        assert sorted(shown) == sorted(os.listdir(f"/{path}"))


def test_without_the_option_there_is_nothing_of_it() -> None:
    with Daemon() as plain:
        assert os.listdir(plain.mountpoint / "sys") == ["devices"]


def test_the_next_server_goes_on() -> None:
    """What the kernel holds of a directory is good for another server."""
    with (
        Daemon("--enable-devices", expect_log=[r"server"]) as daemon,
        container(daemon) as running,
    ):
        assert names(running, "sys/class/mem") == USUAL_MEM
        server = daemon.server
        os.kill(server, signal.SIGKILL)
        daemon.wait_new_server(server)
        assert names(running, "sys/class/mem") == USUAL_MEM
        assert names(running, "sys/class/tty") == {"tty"}


def test_the_rescue_server_shows_the_hosts(tmp_path: Path) -> None:
    flag = tmp_path / "broken"
    (tmp_path / "sitecustomize.py").write_text(BROKEN.format(flag=str(flag)))
    env = {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    options = ("--enable-devices", "--max-failures=2")
    with (
        Daemon(*options, env=env, expect_log=EXPECTED) as daemon,
        container(daemon) as running,
    ):
        assert names(running, "sys/class/mem") == USUAL_MEM
        give_up(daemon, flag)
        every = set(os.listdir("/sys/class/mem"))
        wait_until(lambda: names(running, "sys/class/mem") == every, what="the host's devices")
        running.exec(["ls", "/sys/class/mem/kmsg/dev"])
        recover(daemon, flag)
        wait_until(lambda: names(running, "sys/class/mem") == USUAL_MEM, what="its own again")
        assert names(running, "sys/class/tty") == {"tty"}
