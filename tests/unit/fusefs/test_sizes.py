"""Sizes that one server has told are known to the next."""

import pytest

from pylxcfs.fusefs import sizes
from pylxcfs.fusefs.sizes import Sizes


def on(fd: int) -> Sizes:
    found = Sizes()
    found.use(fd)
    return found


def test_without_a_place_they_are_this_servers() -> None:
    own = Sizes()
    own.told(1 << 63 | 7, 100, 0)
    assert own.get(1 << 63 | 7) == 100
    assert own.get(8) == 0


def test_the_next_server_knows_what_was_told_last(memfd: int) -> None:
    first = on(memfd)
    for node in (7, 8, 1 << 63 | 9):
        first.told(node, node & 0xFF, 0)
    first.told(7, 4096, 0)
    first.drop(8)
    following = on(memfd)
    assert [following.get(node) for node in (7, 8, 1 << 63 | 9)] == [4096, 0, 9]
    following.told(10, 11, 0)
    assert [on(memfd).get(node) for node in (7, 8, 1 << 63 | 9, 10)] == [4096, 0, 9, 11]


def test_places_are_used_again_and_bounded(memfd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "_LENGTH", 16 * 4)
    table = on(memfd)
    for node in range(1, 6):
        table.told(node, 10 * node, 0)
    assert [table.get(node) for node in range(1, 6)] == [10, 20, 30, 0, 0]
    table.drop_unless(lambda node: node in {2, 9})
    assert len(table) == 1
    table.told(4, 44, 0)
    assert [on(memfd).get(node) for node in range(1, 6)] == [0, 20, 0, 44, 0]
