"""Pressure triggers: arming, polling, waking, and how many there may be."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Iterator

import pytest

from pylxcfs.fuse import wire
from pylxcfs.tree import nodes, triggers
from pylxcfs.tree.triggers import READY, Triggers, notification
from tests.conftest import wait_until

A, B = (nodes.pair((number, 0)) for number in (4026532180, 4026532190))


class Armed:
    """Triggers over sockets: urgent data is what a trigger that fires looks like."""

    def __init__(self) -> None:
        self.woken: list[int] = []
        self.triggers = Triggers(self.woken.append)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.kernels: dict[int, socket.socket] = {}
        self._sockets: list[socket.socket] = []

    def arm(self, owner: int, serial: int, text: bytes = b"some 1 1") -> int:
        handle = owner << 22 | serial
        ours = socket.create_connection(self.listener.getsockname())
        kernel, _ = self.listener.accept()
        self._sockets.append(kernel)
        self.kernels[handle] = kernel
        descriptor = ours.detach()
        self.triggers.opened(handle)
        try:
            self.triggers.arm(handle, descriptor, text)
        except OSError:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(descriptor)
            raise
        return handle

    def fire(self, handle: int) -> None:
        self.kernels[handle].send(b"!", socket.MSG_OOB)

    def close(self) -> None:
        for kernel in self._sockets:
            kernel.close()
        self.listener.close()


@pytest.fixture
def armed() -> Iterator[Armed]:
    armed = Armed()
    yield armed
    for handle in list(armed.kernels):
        armed.triggers.release(handle)
    armed.close()


def test_a_trigger_is_written_to_the_kernels_file(armed: Armed) -> None:
    handle = armed.arm(A, 1, b"some 150000 1000000\0")
    assert armed.kernels[handle].recv(100) == b"some 150000 1000000\0"


def test_a_fired_trigger_wakes_its_poller_and_is_told_once(armed: Armed) -> None:
    armed.triggers.start()
    handle, other = armed.arm(A, 1), armed.arm(A, 2)
    assert armed.triggers.poll(handle, 7, schedule=True) == READY
    assert armed.triggers.poll(other, 8, schedule=True) == READY
    armed.fire(handle)
    wait_until(lambda: 7 in armed.woken, what="the poller to be woken")
    assert armed.triggers.poll(handle, 7, schedule=False) == READY | select.POLLPRI
    assert 8 not in armed.woken
    assert armed.triggers.poll(other, 8, schedule=False) == READY


def test_an_opened_handle_without_a_trigger_is_ready(armed: Armed) -> None:
    armed.triggers.opened(A << 22 | 5)
    assert armed.triggers.poll(A << 22 | 5, 1, schedule=True) == READY


def test_a_handle_of_an_earlier_server_is_an_error(armed: Armed) -> None:
    """As the kernel says of a trigger whose cgroup is gone: the program sets it again."""
    events = armed.triggers.poll(A << 22 | 5, 1, schedule=True)
    assert events == select.POLLERR | select.POLLPRI


def test_a_second_trigger_of_a_handle_is_ebusy(armed: Armed) -> None:
    armed.arm(A, 1)
    with pytest.raises(OSError, match="busy") as caught:
        armed.arm(A, 1)
    assert caught.value.errno == errno.EBUSY


def test_the_error_of_the_kernels_file_is_raised(armed: Armed) -> None:
    read, write = os.pipe()
    os.close(read)
    with pytest.raises(BrokenPipeError):
        armed.triggers.arm(A << 22, write, b"nonsense")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(write)


def test_a_closed_handle_has_no_trigger(armed: Armed) -> None:
    handle = armed.arm(A, 1)
    armed.triggers.release(handle)
    assert armed.kernels[handle].recv(100) == b"some 1 1"
    assert armed.kernels[handle].recv(100) == b""  # its descriptor is closed
    armed.triggers.release(handle)


def test_one_container_cannot_use_up_the_descriptors(
    armed: Armed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triggers, "_MOST_EACH", 3)
    handles = [armed.arm(A, serial) for serial in range(3)]
    with pytest.raises(OSError, match="allocate memory") as caught:
        armed.arm(A, 3)
    assert caught.value.errno == errno.ENOMEM
    armed.arm(B, 0)
    armed.triggers.release(handles[0])
    armed.arm(A, 4)


def test_all_together_cannot_either(armed: Armed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "_MOST", 1)
    armed.arm(A, 0)
    with pytest.raises(OSError, match="allocate memory") as caught:
        armed.arm(B, 0)
    assert caught.value.errno == errno.ENOMEM


def test_every_poller_that_an_earlier_server_may_have_left_is_woken(armed: Armed) -> None:
    armed.triggers.wake_all_pollers()
    assert armed.woken[:3] == [1, 2, 3]
    assert len(armed.woken) == len(set(armed.woken)) > 1000


def test_a_notification_names_its_poller() -> None:
    assert wire.NOTIFY_POLL.unpack(notification(9)) == (24, 1, 0, 9)
