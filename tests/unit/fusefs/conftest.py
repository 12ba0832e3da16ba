"""The world of kit.py, and a keeper's memory, for every test here that asks for them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylxcfs.fusefs import newcomers
from tests.unit.fusefs.kit import A, World, make_world
from tests.unit.fusefs.readers import OTHER, THIRD


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


@pytest.fixture
def memfd() -> Iterator[int]:
    """What the keeper holds for the next server."""
    fd = os.memfd_create("keeper")
    yield fd
    os.close(fd)


@pytest.fixture
def told(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Let the world tell how threads read, in a container of several."""
    monkeypatch.setattr(newcomers, "_TOGETHER_NS", 1000)
    world.people.tells_readings = True
    for tid in (OTHER, THIRD):
        world.people.who[tid] = (A, 0)
        world.people.programs[tid] = b"/bin/%d" % tid
    world.clock[0] = 10_000
    return world
