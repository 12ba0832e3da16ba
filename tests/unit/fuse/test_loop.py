"""What the kernel is told of each request, whatever its handler does."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Mapping

import pytest

from pylxcfs.errors import Refused, SourceError
from pylxcfs.fuse import wire
from pylxcfs.fuse.connection import Connection, Handler, Loop, Request
from pylxcfs.guard import Guard
from tests.unit.fuse.device import Answer, Device

FALLBACK = b"the host's"


class Table:
    """Requests by opcode; the fallback is one text."""

    def __init__(self) -> None:
        self.handlers: Mapping[int, Handler] = {
            wire.GETATTR: self._good,
            wire.LOOKUP: self._refused,
            wire.READ: self._bug,
            wire.READLINK: self._source,
            wire.READDIR: self._wait,
            wire.FORGET: lambda node, pid, body: b"",
        }
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.fails = False

    def other(self, request: Request) -> bytes:
        raise Refused(errno.ENOSYS)

    def fallback(self, request: Request) -> bytes:
        if self.fails:
            raise ZeroDivisionError
        return FALLBACK

    def key(self, opcode: int, node: int, pid: int, word: int) -> int:
        return pid

    def _good(self, node: int, pid: int, body: bytes) -> bytes:
        return b"%d %d %d" % (node, pid, len(body))

    def _refused(self, node: int, pid: int, body: bytes) -> bytes:
        raise Refused(errno.EACCES)

    def _bug(self, node: int, pid: int, body: bytes) -> bytes:
        raise KeyError(node)

    def _source(self, node: int, pid: int, body: bytes) -> bytes:
        raise SourceError("gone")

    def _wait(self, node: int, pid: int, body: bytes) -> bytes:
        self.entered.set()
        self.go_on.wait()
        return b"late"


class Served:
    """A loop over a device."""

    def __init__(self, device: Device, fair: bool, ended: Callable[[], object]) -> None:
        self.table = Table()
        self.guard = Guard()
        connection = Connection("test", device.fd, self.table, self.guard, 0, ended, fair)
        self.stop = connection.stop
        self.counts = connection.counts
        self.loop = Loop(connection)


@pytest.fixture(params=[True, False], ids=["queue", "clone"])
def served(device: Device, request: pytest.FixtureRequest) -> Iterator[Served]:
    served = Served(device, request.param, lambda: None)
    served.loop.start()
    yield served
    served.table.go_on.set()
    device.kernel.close()
    served.loop.join()
    os.close(served.stop)


def test_a_handler_gets_the_request_and_its_answer_goes_out(device: Device, served: Served) -> None:
    for node, pid in ((1, 7), (1 << 63 | 130, 0)):
        asked = device.ask(node=node, pid=pid, body=bytes(24))
        assert device.told() == (0, asked, b"%d %d 24" % (node, pid))


def test_requests_are_counted_by_opcode(device: Device, served: Served) -> None:
    for _ in range(3):
        device.ask(wire.READLINK)
        device.told()
    device.ask(63)
    device.told()
    assert {opcode: count for opcode, count in enumerate(served.counts) if count} == {
        wire.READLINK: 3,
        63: 1,
    }


def test_the_number_of_a_resent_request_is_answered_as_it_is(
    device: Device, served: Served
) -> None:
    device._unique = 1 << 63
    device.ask()
    assert device.told().unique == 1 << 63 | 1


@pytest.mark.parametrize(
    ("opcode", "answer"),
    [
        (wire.LOOKUP, (errno.EACCES, b"")),
        (wire.OPEN, (errno.ENOSYS, b"")),
        (wire.READ, (0, FALLBACK)),
        (wire.READLINK, (0, FALLBACK)),
    ],
    ids=["refused", "no handler", "bug", "source"],
)
def test_each_outcome_has_its_answer(
    device: Device, served: Served, opcode: int, answer: tuple[int, bytes]
) -> None:
    asked = device.ask(opcode)
    assert device.told() == Answer(answer[0], asked, answer[1])
    asked = device.ask()
    assert device.told().unique == asked


def test_a_bug_in_the_fallback_is_eio_and_does_not_end_the_server(
    device: Device, served: Served
) -> None:
    served.table.fails = True
    asked = device.ask(wire.READ)
    assert device.told() == (errno.EIO, asked, b"")
    asked = device.ask()
    assert device.told().unique == asked


def test_a_lookup_that_fails_keeps_its_name(served: Served) -> None:
    """After any other error the kernel drops the name, with what is mounted there."""
    served.table.fails = True
    reply = served.loop.fallback((wire.LOOKUP, 5, 1, 7, b"x"))
    assert reply == wire.error_reply(5, errno.ENOMEM)


def test_a_request_without_an_answer_gets_none(device: Device, served: Served) -> None:
    device.ask(wire.FORGET)
    asked = device.ask()
    assert device.told().unique == asked


def test_requests_that_want_no_answer_reach_no_handler(device: Device, served: Served) -> None:
    for opcode in wire.UNANSWERED:
        device.ask(opcode)
    asked = device.ask()
    assert device.told().unique == asked


def test_eagain_that_another_server_left_ends_nothing(device: Device, served: Served) -> None:
    os.set_blocking(device.fd, False)
    for _ in range(3):
        asked = device.ask()
        assert device.told().unique == asked


def test_one_of_thread_and_watchdog_answers(device: Device, served: Served) -> None:
    asked = device.ask(wire.READDIR)
    served.table.entered.wait()
    request = served.loop.serving
    assert request is not None
    assert request[:2] == (wire.READDIR, asked)
    assert served.loop.disown(request)
    served.table.go_on.set()
    served.loop.join()  # it has ended, and has not answered
    os.write(device.fd, wire.data_reply(asked, FALLBACK))
    assert device.told() == (0, asked, FALLBACK)


def test_an_answered_request_cannot_be_taken_from_the_thread(
    device: Device, served: Served
) -> None:
    asked = device.ask(wire.READDIR)
    served.table.entered.wait()
    request = served.loop.serving
    assert request is not None
    served.table.go_on.set()
    assert device.told() == (0, asked, b"late")
    assert not served.loop.disown(request)
    asked = device.ask()
    assert device.told().unique == asked


def test_what_arrives_while_it_leaves_is_for_the_next_server(device: Device) -> None:
    served = Served(device, True, lambda: None)
    served.loop.leaving = True
    device.ask()
    served.loop.run()
    assert served.loop.serving is None
    with pytest.raises(BlockingIOError):
        device.kernel.recv(100, 0x40)  # MSG_DONTWAIT
    os.close(served.stop)


def test_a_stopped_loop_on_a_clone_takes_no_more(device: Device) -> None:
    served = Served(device, False, lambda: None)
    device.ask()
    os.eventfd_write(served.stop, 1)
    served.loop.run()
    assert device.end.recv(4096)
    os.close(served.stop)


class Script:
    """A queue that raises what read(2) on the device does."""

    def __init__(self, device: Device, numbers: list[int]) -> None:
        self.numbers = numbers
        self.device = device

    def read(self, buffers: list[bytearray]) -> int:
        if self.numbers:
            number = self.numbers.pop(0)
            raise OSError(number, os.strerror(number))
        return os.readv(self.device.fd, buffers)


def scripted(device: Device, numbers: list[int], ended: Callable[[], object]) -> Loop:
    connection = Connection("test", device.fd, Table(), Guard(), 0, ended, can_resend=True)
    connection.queue = Script(device, numbers)  # type: ignore[assignment]
    return Loop(connection)


@pytest.mark.parametrize("number", [errno.ENODEV, errno.ECONNABORTED])
def test_the_end_of_the_connection_is_told(device: Device, number: int) -> None:
    ended: list[bool] = []
    scripted(device, [errno.ENOENT, number], lambda: ended.append(True)).run()
    assert ended == [True]


def test_an_unknown_error_of_the_device_ends_the_thread(device: Device) -> None:
    with pytest.raises(OSError, match="Input/output"):
        scripted(device, [errno.EIO], lambda: None).run()


@pytest.mark.parametrize(
    ("number", "warned"), [(errno.ENOENT, 0), (errno.ENODEV, 0), (errno.EINVAL, 1)]
)
def test_an_answer_that_nobody_waits_for_is_no_fault(
    device: Device,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
    warned: int,
) -> None:
    written: list[bytes] = []

    def write(fd: int, data: bytes) -> int:
        written.append(data)
        raise OSError(number, os.strerror(number))

    for _ in range(3):
        device.ask()
    device.kernel.shutdown(1)  # SHUT_WR: the end, after these
    loop = scripted(device, [], lambda: None)
    with monkeypatch.context() as patch:
        patch.setattr("pylxcfs.fuse.connection.os.write", write)
        loop.run()
    assert len(written) == 3
    assert len(caplog.records) == warned


def test_a_request_that_a_clone_has_taken_is_answered_though_it_leaves(device: Device) -> None:
    """The kernel does not hand it out again: it would fail with ECONNABORTED."""
    served = Served(device, False, lambda: None)
    served.loop.leaving = True
    asked = device.ask()
    served.loop.start()
    assert device.told().unique == asked
    os.eventfd_write(served.stop, 1)
    served.loop.join()
    os.close(served.stop)
