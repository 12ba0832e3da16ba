"""How many pressure triggers may be armed."""

from __future__ import annotations

import errno
import os

import pytest

from pylxcfs.fusefs import nodes, triggers
from pylxcfs.fusefs.triggers import Triggers

A, B = (nodes.pair((number, 0)) for number in (4026532180, 4026532190))


@pytest.fixture
def armed() -> Triggers:
    return Triggers(lambda poller: None)


def arm(armed: Triggers, owner: int, serial: int) -> int:
    """Arm on one end of a pipe: any descriptor does that can be polled and written."""
    other, descriptor = os.pipe()
    os.close(other)
    handle = nodes.handle(owner, 0, serial)
    try:
        armed.arm(handle, descriptor, b"")
    except OSError:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
        raise
    return handle


def test_one_container_cannot_use_up_the_descriptors(
    armed: Triggers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triggers, "_MOST_EACH", 3)
    handles = [arm(armed, A, serial) for serial in range(3)]
    with pytest.raises(OSError, match="allocate memory") as caught:
        arm(armed, A, 3)
    assert caught.value.errno == errno.ENOMEM
    handles.append(arm(armed, B, 0))
    armed.release(handles[0])
    handles.append(arm(armed, A, 4))
    for handle in handles:
        armed.release(handle)
    assert not armed._armed


def test_all_together_cannot_either(armed: Triggers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "_MOST", 1)
    handle = arm(armed, A, 0)
    with pytest.raises(OSError, match="allocate memory") as caught:
        arm(armed, B, 0)
    assert caught.value.errno == errno.ENOMEM
    armed.release(handle)
