"""Links below the mountpoint, on a real disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from pylxcfs.errors import HostError
from pylxcfs.kubernetes import node

PATHS = ["proc/meminfo", "proc/pressure", "sys/devices/system/cpu"]


def test_links_are_made_and_removed(tmp_path: Path) -> None:
    top = tmp_path / "mnt"
    for _ in range(2):  # the second time they are there
        assert node.make_skeleton(str(top), PATHS) == []
        for path in PATHS:
            assert (top / path).readlink() == Path("/", path)
    (top / "sys/other").touch()
    node.remove_skeleton(str(top), PATHS)
    assert sorted(map(str, top.rglob("*"))) == [f"{top}/sys", f"{top}/sys/other"]
    node.remove_skeleton(str(top), PATHS)


def test_what_a_runtime_has_made_is_replaced_and_files_of_others_are_left(tmp_path: Path) -> None:
    (tmp_path / "mnt/proc/meminfo").mkdir(parents=True)
    (tmp_path / "mnt/proc/stat").write_text("mine")
    (tmp_path / "mnt/proc/uptime").symlink_to("/elsewhere")
    paths = ["proc/meminfo", "proc/stat", "proc/uptime"]
    assert node.make_skeleton(str(tmp_path / "mnt"), paths) == ["proc/stat", "proc/uptime"]
    assert (tmp_path / "mnt/proc/meminfo").is_symlink()
    assert (tmp_path / "mnt/proc/stat").read_text() == "mine"
    node.remove_skeleton(str(tmp_path / "mnt"), paths)
    assert (tmp_path / "mnt/proc/uptime").is_symlink()


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "mnt/proc").symlink_to(tmp_path / "other")
    with pytest.raises(HostError, match="cannot be made"):
        node.make_skeleton(str(tmp_path / "mnt"), PATHS)
    assert list((tmp_path / "other").iterdir()) == []


def test_a_parent_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot be opened"):
        node.make_skeleton(str(tmp_path / "no/mnt"), PATHS)


def test_nothing_is_mounted_there(tmp_path: Path) -> None:
    assert node.clear([str(tmp_path)]) == 0
    assert node.probe([(str(tmp_path), "x")], 1) == f"nothing of pylxcfs is mounted at {tmp_path}"
