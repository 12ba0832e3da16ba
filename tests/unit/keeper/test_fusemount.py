from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

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


def test_a_memfd_remembers_its_mounts_device() -> None:
    request = (104).to_bytes(4, "little") + bytes(100)
    init = fusemount.remember(request, "0:53")
    assert fusemount.device_of(init) == "0:53"
    assert os.pread(init, 200, 0) == request
    os.close(init)


def test_another_file_is_no_memory(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb") as file:
        assert fusemount.device_of(file.fileno()) is None
    empty = fusemount.remember(b"", "0:53")
    assert fusemount.device_of(empty) is None
    os.close(empty)


def test_detaching_where_nothing_is_mounted_is_said(tmp_path: Path) -> None:
    assert fusemount.detach(str(tmp_path)) is False
