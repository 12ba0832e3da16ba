from __future__ import annotations

from pathlib import Path

import pytest

from pylxcfs.errors import MountpointError
from pylxcfs.keeper import mountpoint


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "a").symlink_to("real")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    real = str((tmp_path / "real").resolve())
    assert mountpoint.resolve(str(tmp_path / "b")) == real
    assert mountpoint.resolve(str(tmp_path / "b" / "below")) == f"{real}/below"
    assert mountpoint.resolve("/") == "/"


def test_a_loop_of_links_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(MountpointError, match="loop of symbolic links"):
        mountpoint.resolve(str(tmp_path / "a"))


def test_an_empty_directory_will_do(tmp_path: Path) -> None:
    mountpoint.check(str(tmp_path), may_have_files=False)


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("missing", "does not exist", "mkdir -p"),
        ("file", "is not a directory", "name a directory"),
        ("full", "is not empty", "-o nonempty"),
    ],
)
def test_what_is_wrong_is_told_with_what_to_do(
    tmp_path: Path, name: str, message: str, hint: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(MountpointError, match=message) as caught:
        mountpoint.check(str(tmp_path / name), may_have_files=False)
    assert hint in caught.value.hint
    assert caught.value.exit_code == 4


def test_files_may_be_covered_on_request(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    mountpoint.check(str(tmp_path), may_have_files=True)


def test_nothing_of_ours_is_where_nothing_is_mounted(tmp_path: Path) -> None:
    assert not mountpoint.is_ours(str(tmp_path))
    assert not mountpoint.is_ours("/proc")
    assert mountpoint.clean_dead(str(tmp_path)) == []
    assert mountpoint.namespaces_holding([]) == 0
