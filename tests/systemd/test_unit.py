"""restart, kill -9, failed upgrades and stop of the real unit, with a container reading."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import wait_until
from tests.systemd.machine import DEADLINE_S, UNIT, Machine


@pytest.fixture
def machine(booted: Machine) -> Iterator[Machine]:
    """The machine with the unit started, and nothing of it left afterwards."""
    booted.install()
    booted.systemctl("start", UNIT)
    yield booted
    booted.install()
    booted.systemctl("stop", UNIT, check=False)
    booted.systemctl("reset-failed", UNIT, check=False)


def test_it_starts_and_is_ready_when_it_says_so(machine: Machine) -> None:
    assert machine.show("ActiveState") == "active"
    assert machine.show("StatusText") == "serving"
    assert machine.show("NFileDescriptorStore") == "4"
    assert machine.run("cat", "/var/lib/pylxcfs/proc/uptime").stdout.count(".") == 2
    assert "serving at /var/lib/pylxcfs" in machine.log()


def test_a_container_does_not_notice_a_restart(machine: Machine) -> None:
    mounts, keeper = machine.mounts(), machine.keeper
    machine.start_container()
    for _ in range(3):
        machine.systemctl("restart", UNIT)
        machine.wait_reads()
    assert machine.mounts() == mounts
    assert machine.keeper != keeper
    assert machine.end_container() == ""


def test_a_container_does_not_notice_the_end_of_the_server(machine: Machine) -> None:
    machine.start_container()
    for _ in range(3):
        server = machine.server()
        machine.run("kill", "-9", str(server))
        wait_until(lambda old=server: machine.server() != old, DEADLINE_S, what="a new server")
        machine.wait_reads()
    assert machine.end_container() == ""


def test_a_container_does_not_notice_the_end_of_the_keeper(machine: Machine) -> None:
    mounts, keeper = machine.mounts(), machine.keeper
    machine.start_container()
    machine.run("kill", "-9", str(keeper))
    machine.wait_active(keeper)
    machine.wait_reads()
    assert machine.mounts() == mounts
    assert machine.end_container() == ""


def test_a_broken_server_keeps_the_mount_until_a_good_one_takes_over(machine: Machine) -> None:
    mounts = machine.mounts()
    machine.start_container()
    machine.break_module("server/server.py")
    machine.systemctl("restart", UNIT)
    assert machine.show("ActiveState") == "active"
    assert machine.show("StatusText").startswith("no server: 5 failed in a row")
    machine.wait_reads()  # the host's values
    machine.install()
    machine.systemctl("restart", UNIT)
    machine.wait_reads()
    assert machine.mounts() == mounts
    assert machine.end_container() == ""


def test_a_version_whose_keeper_cannot_start_does_not_lose_the_mount(machine: Machine) -> None:
    mounts = machine.mounts()
    machine.start_container()
    machine.break_module("cli/commands.py")
    machine.systemctl("restart", UNIT, check=False)
    wait_until(
        lambda: int(machine.show("NRestarts")) >= 2, DEADLINE_S, what="a second try of systemd"
    )
    machine.install()
    machine.wait_active()
    machine.wait_reads()
    assert machine.mounts() == mounts
    assert machine.end_container() == ""


def test_a_hanging_server_is_replaced(machine: Machine) -> None:
    machine.start_container()
    server = machine.server()
    machine.run("kill", "-STOP", str(server))
    wait_until(lambda: machine.server() != server, DEADLINE_S, what="a new server")
    machine.wait_reads()
    assert "shows no sign of life" in machine.log()
    assert machine.end_container() == ""


@pytest.mark.parametrize("method", ["auto", "scm"])
def test_the_hardening_lets_it_find_out_who_asks(machine: Machine, method: str) -> None:
    machine.systemctl("set-environment", f"PYLXCFS_INIT_PID_METHOD={method}")
    machine.systemctl("restart", UNIT)
    machine.systemctl("unset-environment", "PYLXCFS_INIT_PID_METHOD")
    namespaces = ["unshare", "--pid", "--fork", "--mount", "--mount-proc"]
    script = "mount --bind /var/lib/pylxcfs/proc/uptime /proc/uptime && cat /proc/uptime"
    age = float(machine.run(*namespaces, "sh", "-c", script).stdout.split()[0])
    machine_up = float(machine.run("cat", "/proc/uptime").stdout.split()[0])
    assert age < machine_up - 1
    log = machine.log()
    assert "serving at" in log
    nested = "namespace of its own"  # the machine is a container
    assert [line for line in log.splitlines() if "WARNING" in line and nested not in line] == []
    assert "ERROR" not in log


def test_the_hardening_lets_it_heal_containers(machine: Machine) -> None:
    pid = machine.start_sleeper("mount --bind /var/lib/pylxcfs/proc/uptime /proc/uptime")
    assert machine.age_in(pid) is not None
    machine.run("unshare", "--mount", "umount", "-f", "/var/lib/pylxcfs")
    wait_until(lambda: machine.age_in(pid) is not None, DEADLINE_S, what="files of the container")
    assert machine.age_in(pid) < float(machine.run("cat", "/proc/uptime").stdout.split()[0]) - 1
    machine.run("kill", "-9", pid)


def test_the_hardening_lets_it_attach_new_containers(machine: Machine) -> None:
    machine.systemctl("set-environment", "PYLXCFS_ATTACH_NEW=true")
    machine.systemctl("restart", UNIT)
    machine.systemctl("unset-environment", "PYLXCFS_ATTACH_NEW")
    pid = machine.start_sleeper("true")
    table = ("cat", f"/proc/{pid}/mountinfo")
    wait_until(lambda: " /proc/uptime " in machine.run(*table).stdout, DEADLINE_S, what="its files")
    assert "/own/" in machine.run(*table).stdout
    assert machine.age_in(pid) is not None
    machine.run("kill", "-9", pid)
    assert "ERROR" not in machine.log()


def test_others_may_read_the_status(machine: Machine) -> None:
    assert machine.run("stat", "-c", "%a", "/run/pylxcfs/status.json").stdout == "644\n"
    assert machine.run("stat", "-c", "%a", "/run/pylxcfs/pylxcfs.pid").stdout == "644\n"


def test_a_keeper_that_aborts_is_started_again(machine: Machine) -> None:
    mounts, keeper = machine.mounts(), machine.keeper
    machine.run("kill", "-ABRT", str(keeper))
    machine.wait_active(keeper)
    assert machine.mounts() == mounts


def test_a_reload_keeps_keeper_and_server(machine: Machine) -> None:
    keeper, server = machine.keeper, machine.server()
    machine.systemctl("reload", UNIT)
    machine.wait_active()
    assert (machine.keeper, machine.server()) == (keeper, server)


def test_a_configuration_that_is_wrong_does_not_lose_the_mount(machine: Machine) -> None:
    mounts = machine.mounts()
    machine.start_container()
    machine.run("sh", "-c", "echo 'cache_ttl = nan' > /etc/pylxcfs.toml")
    machine.systemctl("reload", UNIT)
    machine.wait_reads()
    machine.systemctl("restart", UNIT)
    machine.wait_reads()
    machine.run("rm", "/etc/pylxcfs.toml")
    machine.systemctl("reload", UNIT)
    assert machine.mounts() == mounts
    assert machine.end_container() == ""


def test_an_abort_is_answered_by_a_new_mount(machine: Machine) -> None:
    keeper = machine.keeper
    machine.run("unshare", "--mount", "umount", "-f", "/var/lib/pylxcfs")
    wait_until(lambda: "a server serves again" in machine.log(), DEADLINE_S, what="the next server")
    assert machine.run("cat", "/var/lib/pylxcfs/proc/uptime").stdout.count(".") == 2
    assert machine.keeper == keeper
    assert len(machine.mounts()) == 2
    assert machine.show("NFileDescriptorStore") == "4"


def test_a_stop_of_a_broken_installation_is_cleaned_up_by_the_next_start(machine: Machine) -> None:
    machine.break_module("cli/commands.py")  # so that ExecStopPost fails
    machine.systemctl("stop", UNIT)
    assert machine.show("ActiveState") in ("inactive", "failed")
    machine.install()
    machine.systemctl("start", UNIT)
    assert machine.run("cat", "/var/lib/pylxcfs/proc/uptime").stdout.count(".") == 2
    assert len(machine.mounts()) == 2


def test_a_stop_leaves_nothing(machine: Machine) -> None:
    machine.systemctl("stop", UNIT)
    assert machine.show("ActiveState") == "inactive"
    assert machine.show("Result") == "success"
    assert machine.mounts() == []
    assert machine.show("NFileDescriptorStore") == "0"
    assert machine.run("pgrep", "-f", "pylxcfs", check=False).stdout == ""


def test_ending_the_keeper_by_hand_leaves_nothing(machine: Machine) -> None:
    machine.run("kill", "-TERM", str(machine.keeper))
    wait_until(
        lambda: machine.show("ActiveState") == "inactive", DEADLINE_S, what="the unit to be down"
    )
    assert machine.mounts() == []


def test_unmount_by_hand_ends_the_unit(machine: Machine) -> None:
    machine.run("pylxcfs", "unmount")
    wait_until(
        lambda: machine.show("ActiveState") == "inactive", DEADLINE_S, what="the unit to be down"
    )
    assert machine.mounts() == []
