"""A booted systemd for all tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.systemd.machine import Machine


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with Machine(tmp_path_factory.mktemp("machine")) as machine:
        yield machine
