"""Files are asked about by a thread that nobody waits for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pylxcfs.fusefs import asking
from pylxcfs.fusefs.asking import Asker
from tests.conftest import wait_until
from tests.unit.fusefs.kit import A, World


def test_what_is_asked_about_is_looked_at_and_what_is_gone_is_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_PAUSE_S", 0.0)
    looked: list[str] = []

    def stat(path: str) -> os.stat_result:
        looked.append(path)
        raise FileNotFoundError(path)

    monkeypatch.setattr(asking.os, "stat", stat)
    asker = Asker(str(tmp_path), lambda node: {1: "first", 3: "last"}.get(node))
    asker.start()
    for node in (1, 2):
        asker.later(node)
    wait_until(lambda: f"{tmp_path}/first" in looked, what="the first")
    asker.later(3)
    wait_until(lambda: f"{tmp_path}/last" in looked, what="the last")


def test_a_file_is_asked_about_once_a_page_ended_with_its_text(world: World) -> None:
    asked: list[int] = []
    world.fs.pages.ask_later = asked.append
    node = world.node(A)
    handle, _ = world.fs.open(node, os.O_RDONLY, 0, 1)
    world.fs.read(node, handle, 0, 4096, 1)
    assert not asked
    world.fs.fill(node, handle, 0, 4096, 1)
    assert asked == [node]
    assert world.fs.tree.path(node) == f"by-pidns/{A}/proc/x"
    assert world.fs.tree.path(2) is None
