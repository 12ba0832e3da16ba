"""A connection in the hands of one server: what it takes over, and what is stuck."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Mapping

import pytest

from pylxcfs.fuse import connection as module
from pylxcfs.fuse import memory, wire
from pylxcfs.fuse.connection import Connection
from pylxcfs.fuse.loop import Handler, Request
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
        self.handlers: Mapping[int, Handler] = {wire.GETATTR: self._good, wire.READ: self._wait}

    def other(self, request: Request) -> bytes:
        return wire.error_reply(request[1], errno.ENOSYS)

    def fallback(self, request: Request) -> bytes:
        self.fallback_goes_on.wait()
        return wire.data_reply(request[1], HOST)

    def key(self, opcode: int, node: int, pid: int, word: int) -> int:
        return pid

    def _good(self, unique: int, node: int, pid: int, body: bytes) -> bytes:
        return wire.data_reply(unique, b"good")

    def _wait(self, unique: int, node: int, pid: int, body: bytes) -> bytes:
        self.go_on.wait()
        return wire.data_reply(unique, b"late")


class Served:
    def __init__(self, device: Device, memfd: int, timeout_s: float = 0) -> None:
        self.device = device
        self.table = Table()
        self.ended = threading.Event()
        self.connection = Connection("own", device.fd, memfd, Guard(), timeout_s, self.ended.set)

    def serve(self) -> None:
        self.connection.serve(self.table)
        assert self.device.kernel.recv(100) == wire.NOTIFY_RESEND

    def end(self) -> None:
        """Let its threads end."""
        self.table.go_on.set()
        self.table.fallback_goes_on.set()
        self.connection.close()
        for _ in range(2):  # a thread that waits for a request gets one, and leaves it
            if self.connection._loop is not None and self.connection._loop.is_alive():
                self.device.ask()
        for thread in threading.enumerate():
            if thread.name in ("own", "watchdog-own", "fallback"):
                thread.join()


@pytest.fixture
def make(device: Device, memfd: int) -> Iterator[Callable[[float], Served]]:
    made: list[Served] = []

    def one(timeout_s: float) -> Served:
        made.append(Served(device, memfd, timeout_s))
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
    fd = memory.make("own", "0:42", can_resend=False)
    cloned: list[int] = []

    def clone(connection: int) -> int:
        cloned.append(connection)
        return os.dup(connection)

    monkeypatch.setattr(module, "_clone", clone)
    served = Served(device, fd)
    served.connection.serve(served.table)
    assert cloned == [device.fd]
    assert served.connection.device != device.fd
    asked = device.ask()
    assert device.told() == (0, asked, b"good")  # and no notification before
    served.end()
    os.close(served.connection.device)
    os.close(fd)


def test_memory_of_another_version_is_refused(device: Device) -> None:
    fd = os.memfd_create("keeper")
    with pytest.raises(ValueError, match="another version"):
        Connection("own", device.fd, fd, Guard(), 0, lambda: None)
    os.close(fd)


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


def test_where_the_hosts_file_blocks_as_well_the_answer_is_eio(
    device: Device, make: Callable[[float], Served]
) -> None:
    served = make(0.01)
    served.table.fallback_goes_on.clear()
    served.serve()
    stuck = device.ask(wire.READ)
    assert device.told() == (errno.EIO, stuck, b"")
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
