"""The socket of the resources service: systemd's own, and the one in the fd store."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from tests.conftest import wait_until
from tests.kit.asking import CLIENT
from tests.systemd.machine import DEADLINE_S, SOCKET, UNIT, Machine

PATH = "/run/pylxcfs/resources.sock"
ASK = [sys.executable, "-I", "-S", "-c", CLIENT]


@pytest.fixture
def machine(booted: Machine) -> Iterator[Machine]:
    yield booted
    booted.systemctl("stop", SOCKET, UNIT, check=False)
    booted.systemctl("reset-failed", UNIT, check=False)
    booted.add("")


def scope(machine: Machine, path: str) -> str:
    found = json.loads(machine.run(*ASK, path, "self").stdout)
    assert found["cpu"]["affinity"], "the unit's filter of system calls"
    return str(found["scope"])


def inode(machine: Machine, path: str) -> str:
    return machine.run("stat", "--format=%i", path).stdout


def bound(machine: Machine) -> str:
    """Return the socket that `docker-args` binds."""
    words = machine.run("/usr/local/bin/pylxcfs", "docker-args").stdout.split()
    return words[words.index("--mount") + 1].removeprefix("type=bind,src=").partition(",")[0]


def test_the_first_question_starts_the_service(machine: Machine) -> None:
    machine.systemctl("start", SOCKET)
    assert machine.show("ActiveState") == "inactive"
    before = inode(machine, PATH)
    assert machine.run("stat", "--format=%a", PATH).stdout == "666\n"
    assert scope(machine, PATH)
    machine.wait_active()
    assert bound(machine) == PATH
    keeper = machine.keeper
    machine.systemctl("restart", UNIT)
    assert scope(machine, PATH)
    machine.run("kill", "-9", str(machine.keeper))
    assert scope(machine, PATH)
    machine.wait_active(keeper)
    machine.systemctl("stop", UNIT)
    assert scope(machine, PATH)  # started again
    assert inode(machine, PATH) == before


def test_our_socket_is_in_the_fd_store(machine: Machine) -> None:
    machine.add("[Service]\nEnvironment=PYLXCFS_RESOURCES=1\n")
    machine.systemctl("start", UNIT)
    assert machine.show("NFileDescriptorStore") == "5"
    wait_until(
        lambda: machine.run(*ASK, PATH, "self", check=False).returncode == 0,
        DEADLINE_S,
        what="the service",
    )
    assert bound(machine) == PATH
    before = inode(machine, PATH)
    for _ in range(2):
        machine.systemctl("restart", UNIT)
        assert scope(machine, PATH)
        keeper = machine.keeper
        machine.run("kill", "-9", str(keeper))
        assert scope(machine, PATH)
        machine.wait_active(keeper)
    assert inode(machine, PATH) == before
    assert machine.show("NFileDescriptorStore") == "5"
    machine.systemctl("stop", UNIT)
    assert machine.show("NFileDescriptorStore") == "0"
    refused = machine.run(*ASK, PATH, "self", check=False)
    assert "ConnectionRefusedError" in refused.stderr
    machine.systemctl("start", UNIT)
    wait_until(
        lambda: machine.run(*ASK, PATH, "self", check=False).returncode == 0,
        DEADLINE_S,
        what="the service at a new socket",
    )


def test_a_socket_that_is_not_wanted_any_more_was_served_from_the_fd_store(
    machine: Machine,
) -> None:
    machine.add("[Service]\nEnvironment=PYLXCFS_RESOURCES=1\n")
    machine.systemctl("start", UNIT)
    assert machine.show("NFileDescriptorStore") == "5"
    machine.add("")
    machine.systemctl("restart", UNIT)
    wait_until(
        lambda: machine.run("test", "-e", PATH, check=False).returncode == 1,
        DEADLINE_S,
        what="the end of the socket",
    )
    wait_until(
        lambda: machine.show("NFileDescriptorStore") == "4", DEADLINE_S, what="an entry less"
    )
