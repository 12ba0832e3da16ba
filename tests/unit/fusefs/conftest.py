"""The world of kit.py for every test here that asks for it."""

from pathlib import Path

import pytest

from tests.unit.fusefs.kit import World, make_world


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)
