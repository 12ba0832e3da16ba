"""The trees of sysfs: paths to numbers and back."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from pylxcfs.tree import nodes, sysfs
from pylxcfs.tree.sysfs import CPU, MEMORY, NODE, SysTree

FILES = (
    f"{CPU}/online",
    f"{CPU}/cpu0/topology/core_id",
    f"{NODE}/node0/cpulist",
    f"{MEMORY}/memory1/state",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path in FILES:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / CPU / "cpu0/subsystem").symlink_to("../../cpu")
    return tmp_path


def test_every_tree_that_the_host_has_is_served(root: Path) -> None:
    assert list(SysTree(str(root)).roots()) == [CPU, NODE, MEMORY]
    (root / MEMORY).rename(root / "elsewhere")
    assert list(SysTree(str(root)).roots()) == [CPU, NODE]


@pytest.mark.parametrize("path", [*FILES, CPU, f"{CPU}/cpu0/subsystem"])
def test_a_number_is_understood_by_the_next_server(root: Path, path: str) -> None:
    index = SysTree(str(root)).index(path)
    assert index is not None
    assert nodes.SYSFS < index < nodes.INDEX_LIMIT
    tree = SysTree(str(root))
    tree.roots()  # as each server does at its start
    assert tree.path(index) == path


def test_a_listing_and_a_lookup_give_the_same_numbers(root: Path) -> None:
    tree = SysTree(str(root))
    for path in (CPU, f"{CPU}/cpu0", NODE):
        for entry in tree.entries(path):
            child = f"{path}/{entry.name.decode()}"
            assert tree.index(child) == entry.number
            assert stat.S_IFMT(tree.lstat(child).st_mode) == entry.mode


def test_what_is_not_there_has_no_number(root: Path) -> None:
    tree = SysTree(str(root))
    assert tree.index(f"{CPU}/nothing") is None
    assert tree.path(nodes.SYSFS + 1) is None
    with pytest.raises(FileNotFoundError):
        tree.entries(f"{CPU}/nothing")


def test_a_link_has_the_hosts_target(root: Path) -> None:
    assert SysTree(str(root)).readlink(f"{CPU}/cpu0/subsystem") == b"../../cpu"


def test_numbers_that_do_not_fit_are_replaced_for_the_life_of_the_server(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysfs, "_SPARE", nodes.INDEX_LIMIT - nodes.SYSFS)
    tree = SysTree(str(root))
    numbers = {path: tree.index(path) for path in FILES}
    assert len(set(numbers.values())) == len(FILES)
    for path, number in numbers.items():
        assert number is not None
        assert number < nodes.INDEX_LIMIT
        assert tree.path(number) == path
        assert tree.index(path) == number


def test_without_spare_numbers_further_paths_are_not_there(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older node would show the other path."""
    monkeypatch.setattr(sysfs, "_SPARE", 2)
    monkeypatch.setattr(sysfs, "INDEX_LIMIT", nodes.SYSFS)
    tree = SysTree(str(root))
    first, second, third = FILES[:3]
    numbers = [tree.index(path) for path in (first, second, third)]
    assert numbers == [nodes.SYSFS - 1, nodes.SYSFS - 2, None]
    assert [tree.index(path) for path in (first, second)] == numbers[:2]
    assert tree.entries(f"{NODE}/node0") == []
    assert [tree.path(number) for number in numbers[:2]] == [first, second]
