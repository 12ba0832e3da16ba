"""Signals while it serves: switch virtualisation, reload, dump stacks."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.conftest import wait_until
from tests.kit.container import Container
from tests.kit.daemon import Daemon

GIB = 1 << 30


def total(container: Container) -> bytes:
    return container.read("/proc/meminfo").split()[1]


def test_usr2_switches_virtualisation_off_and_on() -> None:
    host = Path("/proc/meminfo").read_bytes().split()[1]
    with (
        Daemon(expect_log=["virtualisation is"]) as daemon,
        Container(daemon.mountpoint, memory=GIB, cpus=1) as container,
    ):
        assert total(container) == b"1048576"
        os.kill(daemon.keeper, signal.SIGUSR2)
        wait_until(lambda: total(container) == host, what="the host's values")
        online = Path("/sys/devices/system/cpu/online").read_bytes()
        assert container.read("/sys/devices/system/cpu/online") == online
        os.kill(daemon.keeper, signal.SIGUSR2)
        wait_until(lambda: total(container) == b"1048576", what="the container's values")


def test_hup_reloads_and_says_what_changed(tmp_path: Path) -> None:
    config = tmp_path / "pylxcfs.toml"
    config.write_text('cpu_view = "quota"\n')
    with (
        Daemon("--config", str(config)) as daemon,
        Container(daemon.mountpoint, cpus=0.5) as container,
    ):
        online = "/sys/devices/system/cpu/online"
        assert container.read(online) == b"0\n"
        config.write_text('cpu_view = "cpuset"\n')
        os.kill(daemon.keeper, signal.SIGHUP)
        wait_until(lambda: "cpu_view: quota -> cpuset" in daemon.log, what="the log of a reload")
        host = Path(online).read_bytes()
        # A text that has become longer while it was read may be shown with blanks for a moment.
        wait_until(lambda: container.read(online).split() == host.split(), what="the other view")


def test_a_bad_config_on_reload_changes_nothing(tmp_path: Path) -> None:
    config = tmp_path / "pylxcfs.toml"
    config.write_text("cache_ttl = 0.1\n")
    with (
        Daemon("--config", str(config), expect_log=["not reloaded", "stays as it was"]) as daemon,
        Container(daemon.mountpoint, memory=GIB) as container,
    ):
        config.write_text("cache_tll = 5\n")
        os.kill(daemon.keeper, signal.SIGHUP)
        wait_until(lambda: "cache_tll" in daemon.log, what="the complaint")
        assert total(container) == b"1048576"


def test_quit_dumps_stacks_and_goes_on() -> None:
    with (
        Daemon(expect_log=[""]) as daemon,
        Container(daemon.mountpoint, memory=GIB) as container,
    ):
        os.kill(daemon.keeper, signal.SIGQUIT)
        wait_until(lambda: "fuse/connection.py" in daemon.log, what="the stacks")
        assert total(container) == b"1048576"
