"""What a table of mounts says of a container's files."""

from __future__ import annotations

import pytest

from pylxcfs.formats import mountinfo
from pylxcfs.monitor import bindings
from pylxcfs.monitor.bindings import Devices, bound

PIDNS = 4026532300
KEY = f"{PIDNS}-1f-{'0' * 32}"
KNOWN = Devices("0:50", "0:51", frozenset({"0:50", "0:51", "0:60"}))


def line(device: str, root: str, target: str, fstype: str = "fuse.pylxcfs") -> bytes:
    return f"40 30 {device} {root} {target} ro - {fstype} pylxcfs ro\n".encode()


def test_without_mounts_every_file_is_the_kernels() -> None:
    found = bound([], PIDNS, KNOWN)
    assert set(found.values()) == {"none"}
    assert "/proc/meminfo" in found
    assert "/proc/pressure" in found


@pytest.mark.parametrize(
    ("device", "root", "kind"),
    [
        ("0:50", f"/own/{KEY}/proc/meminfo", bindings.OWN),
        ("0:50", f"/own/{PIDNS}.4026532301-1f-{'0' * 32}/proc/meminfo", bindings.OWN),
        ("0:50", f"/own/{PIDNS + 1}-1f-{'0' * 32}/proc/meminfo", bindings.FOREIGN),
        ("0:50", f"/own/{PIDNS}1-1f-{'0' * 32}/proc/meminfo", bindings.FOREIGN),
        ("0:50", "/own/host/proc/meminfo", bindings.HOST),
        ("0:51", "/proc/meminfo", bindings.CALLER),
        ("0:60", f"/own/{KEY}/proc/meminfo", bindings.OTHER),
        ("0:61", f"/own/{KEY}/proc/meminfo", bindings.DEAD),
    ],
)
def test_a_mount_of_ours_is_told_by_its_device_and_root(device: str, root: str, kind: str) -> None:
    mounts = mountinfo.parse(line(device, root, "/proc/meminfo"))
    assert bound(mounts, PIDNS, KNOWN)["/proc/meminfo"] == kind


def test_without_an_instance_a_mount_without_a_process_is_dead() -> None:
    mounts = mountinfo.parse(line("0:50", f"/own/{KEY}/proc/stat", "/proc/stat"))
    nothing = Devices(None, None, frozenset())
    assert bound(mounts, PIDNS, nothing)["/proc/stat"] == bindings.DEAD


def test_the_uppermost_mount_counts() -> None:
    text = line("0:61", "/proc/stat", "/proc/stat") + line("0:51", "/proc/stat", "/proc/stat")
    assert bound(mountinfo.parse(text), PIDNS, KNOWN)["/proc/stat"] == bindings.CALLER
    text += line("0:3", "/null", "/proc/stat", "devtmpfs")
    assert bound(mountinfo.parse(text), PIDNS, KNOWN)["/proc/stat"] == bindings.NONE


def test_lxcfs_is_named() -> None:
    mounts = mountinfo.parse(line("0:70", "/proc/stat", "/proc/stat", "fuse.lxcfs"))
    assert bound(mounts, PIDNS, KNOWN)["/proc/stat"] == bindings.LXCFS


def test_files_bound_one_by_one_stand_for_their_directory() -> None:
    mounts = mountinfo.parse(line("0:51", "/proc/pressure/cpu", "/proc/pressure/cpu"))
    found = bound(mounts, PIDNS, KNOWN)
    assert found["/proc/pressure/cpu"] == bindings.CALLER
    assert "/proc/pressure" not in found


def test_mounts_of_ours_elsewhere_are_no_files_of_the_container() -> None:
    mounts = mountinfo.parse(line("0:50", "/", "/var/lib/pylxcfs"))
    assert set(bound(mounts, PIDNS, KNOWN).values()) == {"none"}
