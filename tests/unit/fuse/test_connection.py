"""A connection in the hands of one server: what it takes over, and what is stuck."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from pylxcfs.errors import Refused
from pylxcfs.fuse import connection as module
from pylxcfs.fuse import wire
from pylxcfs.fuse.connection import Connection, Handler, Request, device_of_server
from pylxcfs.guard import Guard
from tests.conftest import wait_until
from tests.unit.fuse.device import Device

HOST = b"the host's text"


class Table:
    """GETATTR is answered; READ waits for the test; the fallback is the host's text."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.fallback_goes_on = threading.Event()
        self.fallback_goes_on.set()
        self.handlers: dict[int, Handler] = {wire.GETATTR: self._good, wire.READ: self._wait}

    def other(self, request: Request) -> bytes:
        raise Refused(errno.ENOSYS)

    def fallback(self, request: Request) -> bytes:
        self.fallback_goes_on.wait()
        return HOST

    def key(self, opcode: int, node: int, pid: int, word: int) -> int:
        return pid

    def _good(self, node: int, pid: int, body: bytes) -> bytes:
        return b"good"

    def _wait(self, node: int, pid: int, body: bytes) -> bytes:
        self.go_on.wait()
        return b"late"


class Served:
    def __init__(self, device: Device, timeout_s: float = 0, *, can_resend: bool = True) -> None:
        self.device = device
        self.table = Table()
        self.ended = threading.Event()
        self.connection = Connection(
            "own", device.fd, self.table, Guard(), timeout_s, self.ended.set, can_resend=can_resend
        )

    def serve(self) -> None:
        self.connection.serve()
        assert self.device.kernel.recv(100) == wire.NOTIFY_RESEND

    def end(self) -> None:
        """Let its threads end."""
        self.table.go_on.set()
        self.table.fallback_goes_on.set()
        self.connection.close()
        for _ in range(2):  # a thread that waits for a request gets one, and leaves it
            if self.connection._loop.is_alive():
                self.device.ask()
        for thread in threading.enumerate():
            if thread.name in ("own", "watchdog-own", "fallback"):
                thread.join()


@pytest.fixture
def make(device: Device) -> Iterator[Callable[[float], Served]]:
    made: list[Served] = []

    def one(timeout_s: float) -> Served:
        made.append(Served(device, timeout_s))
        return made[-1]

    yield one
    for served in made:
        served.end()


def test_requests_that_a_dead_server_took_are_asked_for_again(
    device: Device, make: Callable[[float], Served]
) -> None:
    os.set_blocking(device.fd, False)  # it was killed while it queued
    served = make(0)
    served.serve()
    asked = device.ask()
    assert device.told() == (0, asked, b"good")
    assert served.connection.healthy


def test_a_kernel_that_cannot_resend_is_served_through_a_clone(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloned: list[tuple[int, int, bytes]] = []
    monkeypatch.setattr(os, "open", lambda path, flags: 77)
    monkeypatch.setattr(fcntl, "ioctl", lambda *what: cloned.append(what))
    assert device_of_server(device.fd, can_resend=True) == device.fd
    assert device_of_server(device.fd, can_resend=False) == 77
    assert cloned == [(77, wire.DEV_IOC_CLONE, device.fd.to_bytes(4, sys.byteorder))]
    monkeypatch.undo()
    served = Served(device, can_resend=False)
    served.connection.serve()
    asked = device.ask()
    assert device.told() == (0, asked, b"good")  # and no notification before
    served.end()


def test_a_stuck_request_is_answered_with_the_hosts_text_and_the_next_is_served(
    device: Device, make: Callable[[float], Served], caplog: pytest.LogCaptureFixture
) -> None:
    served = make(0.01)
    served.serve()
    stuck = device.ask(wire.READ)
    assert device.told() == (0, stuck, HOST)
    asked = device.ask()
    assert device.told() == (0, asked, b"good")
    assert served.connection.healthy
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    served.table.go_on.set()  # it comes back, and says nothing more of it
    asked = device.ask()
    assert device.told() == (0, asked, b"good")


@pytest.mark.parametrize(
    ("opcode", "number"), [(wire.READ, errno.EIO), (wire.LOOKUP, errno.ENOMEM)]
)
def test_where_the_hosts_file_blocks_as_well_the_answer_is_an_error(
    device: Device, make: Callable[[float], Served], opcode: int, number: int
) -> None:
    """ENOMEM of a LOOKUP, with which the kernel keeps the name and what is mounted there."""
    served = make(0.01)
    served.table.handlers[wire.LOOKUP] = served.table.handlers[wire.READ]
    served.table.fallback_goes_on.clear()
    served.serve()
    stuck = device.ask(opcode)
    assert device.told() == (number, stuck, b"")
    asked = device.ask()
    assert device.told() == (0, asked, b"good")


def test_a_server_with_too_many_stuck_requests_should_be_replaced(
    device: Device, make: Callable[[float], Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_STUCK", 2)
    served = make(0.01)
    served.serve()
    for healthy in (True, False):
        stuck = device.ask(wire.READ)
        assert device.told() == (0, stuck, HOST)
        assert served.connection.healthy is healthy


def test_the_end_of_the_loop_is_seen(device: Device, make: Callable[[float], Served]) -> None:
    served = make(0)
    assert not served.connection.healthy
    served.serve()
    assert served.connection.healthy
    device.kernel.shutdown(1)  # SHUT_WR
    wait_until(lambda: not served.connection.healthy, what="the end of the loop")


def test_a_server_that_ends_finishes_its_request_and_takes_no_other(
    device: Device, make: Callable[[float], Served]
) -> None:
    served = make(0)
    served.serve()
    asked = device.ask(wire.READ)
    wait_until(lambda: served.connection._loop.serving, what="the request in service")
    closing = threading.Thread(target=served.connection.close)
    closing.start()
    wait_until(lambda: served.connection._loop.leaving, what="the end of the server")
    served.table.go_on.set()
    closing.join()
    assert device.told() == (0, asked, b"late")
    device.ask()
    served.connection._loop.join()
    with pytest.raises(BlockingIOError):
        device.kernel.recv(100, 0x40)  # MSG_DONTWAIT


def test_a_connection_that_never_served_can_be_closed(
    make: Callable[[float], Served],
) -> None:
    make(0).connection.close()
