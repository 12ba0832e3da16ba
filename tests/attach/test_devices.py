"""Directories of devices in containers that run, where the instance serves them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pylxcfs.attach.views import DEVICES, paths
from tests.attach.conftest import views_in
from tests.kit import devices as kit
from tests.kit.daemon import Daemon
from tests.kit.devices import USUAL


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon("--enable-devices") as running:
        yield running


def test_a_running_container_is_given_and_loses_its_devices(daemon, make_container, command):
    made = make_container()
    kit.allow_only(made.cgroup, USUAL)
    everything = {f"/{path}" for path in (*paths(), *DEVICES) if os.path.exists(f"/{path}")}
    every_mem = made.exec(["ls", "/sys/class/mem"]).stdout.split()
    done = command(daemon, "attach", str(made.pid))
    assert f"{len(everything)} attached" in done.stdout
    assert set(views_in(made)) == everything
    shown = made.exec(["ls", "/sys/class/mem"]).stdout.split()
    assert set(shown) == {b"null", b"zero", b"full", b"random", b"urandom"}
    assert made.exec(["ls", "-A", "/sys/class/misc"]).stdout == b""
    made.exec(["cat", "/sys/class/mem/null/dev", "/sys/dev/char/1:3/dev"])
    command(daemon, "detach", str(made.pid))
    assert views_in(made) == {}
    assert made.exec(["ls", "/sys/class/mem"]).stdout.split() == every_mem


def test_one_directory_can_be_chosen(daemon, make_container, command):
    made = make_container()
    command(daemon, "attach", "--files", "sys/class/tty", str(made.pid))
    assert set(views_in(made)) == {"/sys/class/tty"}


def test_an_instance_without_the_option_serves_none(make_container, command):
    made = make_container()
    with Daemon() as plain:
        done = command(plain, "attach", "--files", "sys/class/tty", str(made.pid), code=2)
        assert "sys/class/tty is not served" in done.stderr
        assert "sys/class" not in command(plain, "docker-args").stdout
