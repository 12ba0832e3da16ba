"""A device and a keeper's memory, for every test here that asks for them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pylxcfs.fuse import memory
from tests.unit.fuse.device import Device


@pytest.fixture
def device() -> Iterator[Device]:
    device = Device()
    yield device
    device.close()


@pytest.fixture
def memfd() -> Iterator[int]:
    """What the keeper holds for the next server."""
    fd = memory.make("own", "0:42", can_resend=True)
    yield fd
    os.close(fd)
