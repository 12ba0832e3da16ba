from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.fuse import memory
from pylxcfs.keeper import fusemount
from pylxcfs.keeper.fusemount import Mounted, parse_mountinfo

MOUNTINFO = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
40 27 0:53 / /var/lib/with\040blank rw,nosuid,nodev shared:1 master:2 - fuse.pylxcfs pylxcfs rw
nonsense
"""


def test_mountinfo_is_read_with_its_escapes() -> None:
    assert parse_mountinfo(MOUNTINFO) == [
        Mounted("0:21", "/proc", "proc"),
        Mounted("0:53", "/var/lib/with blank", "fuse.pylxcfs"),
    ]


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    parse_mountinfo(text)


def test_what_is_mounted_is_found_by_its_exact_path(tmp_path: Path) -> None:
    proc = fusemount.mounted_at("/proc")
    assert proc is not None
    assert proc.fstype == "proc"
    assert fusemount.mounted_at(str(tmp_path)) is None


def test_a_mount_is_known_by_the_device_in_the_name_of_its_memory() -> None:
    proc = fusemount.mounted_at("/proc")
    assert proc is not None
    memfd = memory.make("own", proc.device, True)
    mount = fusemount.Mount("own", "/proc", -1, memfd)
    assert not mount.is_mounted()  # the same device, and none of ours
    assert mount.descriptors == {"pylxcfs-own": -1, "pylxcfs-own-memory": memfd}
    os.close(memfd)


def test_memory_of_another_version_is_not_usable(tmp_path: Path) -> None:
    memfd = os.memfd_create("pylxcfs-own-0:53")
    assert not fusemount.Mount("own", str(tmp_path), -1, memfd).is_usable()
    os.close(memfd)


def test_the_device_of_a_previous_versions_mount_is_in_the_name_of_its_memfd() -> None:
    init, other = os.memfd_create("pylxcfs-init-0:53"), os.memfd_create("pylxcfs-own-0:53")
    assert fusemount.device_of_previous(init) == "0:53"
    assert fusemount.device_of_previous(other) is None
    os.close(init)
    os.close(other)


def test_detaching_where_nothing_is_mounted_is_said(tmp_path: Path) -> None:
    assert fusemount.detach(str(tmp_path)) is False
