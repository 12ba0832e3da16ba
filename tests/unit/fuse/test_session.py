"""What goes through pyfuse3: the socket pair in place of its device. The test is libfuse here."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from pylxcfs.errors import Refused
from pylxcfs.fuse import init, wire
from pylxcfs.fuse.session import Session
from pylxcfs.guard import Guard
from tests.conftest import wait_until
from tests.unit.fuse.device import Device


class Passed:
    """A session, and libfuse's end of it."""

    def __init__(self, device: Device) -> None:
        self.session = Session(device.fd, Guard())
        self.libfuse = self.session._theirs
        assert init.parse(self.libfuse.recv(4096)) == (1, 31, init.CALLER, 0)

    def negotiate(self) -> None:
        self.libfuse.send(wire.data_reply(1, bytes(64)))

    def close(self) -> None:
        self.libfuse.close()
        self.session._ours.close()


@pytest.fixture
def passed(device: Device) -> Iterator[Passed]:
    passed = Passed(device)
    yield passed
    passed.session._ours.shutdown(socket.SHUT_RDWR)
    for thread in threading.enumerate():
        if thread.name == "relay":
            thread.join()
    passed.close()


def test_a_request_is_passed_on_and_its_answer_goes_to_the_kernel(
    device: Device, passed: Passed
) -> None:
    passed.negotiate()
    unique = 1 << 63 | 5
    passed.session.send((wire.LOOKUP, unique, 33, 7, b"meminfo\0"))
    request = passed.libfuse.recv(4096)
    assert wire.IN_HEADER.unpack_from(request) == (48, wire.LOOKUP, unique, 33, 0, 0, 7, 0)
    assert request[40:] == b"meminfo\0"
    passed.libfuse.send(wire.error_reply(unique, errno.ENOENT))
    assert device.told() == (errno.ENOENT, unique, b"")


def test_the_answer_to_init_goes_nowhere(device: Device, passed: Passed) -> None:
    passed.negotiate()
    passed.libfuse.send(wire.error_reply(6, 0))
    assert device.told().unique == 6


def test_a_crowd_that_pyfuse3_does_not_keep_up_with_is_told_eagain(
    device: Device, passed: Passed
) -> None:
    def pass_on() -> None:
        for unique in range(1, 1 << 20):
            passed.session.send((wire.READDIR, unique, 1, 7, bytes(32_000)))

    with pytest.raises(Refused) as caught:
        pass_on()
    assert caught.value.errno == errno.EAGAIN


def test_a_lookup_is_refused_by_enomem(passed: Passed) -> None:
    """Any other error would drop the name, with what is mounted there, for all callers."""

    def pass_on() -> None:
        for unique in range(1, 1 << 20):
            passed.session.send((wire.LOOKUP, unique, 1, 7, bytes(200)))

    with pytest.raises(Refused) as caught:
        pass_on()
    assert caught.value.errno == errno.ENOMEM


def test_requests_with_one_key_are_bounded_until_they_are_answered(
    device: Device, passed: Passed
) -> None:
    passed.negotiate()
    for unique in range(1, 69):
        passed.session.send((wire.READDIR, unique, 1, 7, b""), "a")
    for opcode, number in ((wire.READDIR, errno.EAGAIN), (wire.LOOKUP, errno.ENOMEM)):
        with pytest.raises(Refused) as caught:
            passed.session.send((opcode, 100, 1, 7, b""), "a")
        assert caught.value.errno == number
    passed.session.send((wire.READDIR, 100, 1, 7, b""), "b")
    for unique in range(101, 201):
        passed.session.send((wire.RELEASE, unique, 1, 7, b""))
    passed.libfuse.send(wire.error_reply(5, 0))
    assert device.told().unique == 5
    wait_until(lambda: 5 not in passed.session._unanswered, what="the relay")
    passed.session.send((wire.READDIR, 300, 1, 7, b""), "a")


def test_a_server_that_ends_waits_for_the_answers(device: Device, passed: Passed) -> None:
    passed.negotiate()
    for unique in (1, 2):
        passed.session.send((wire.STATFS, unique, 1, 7, b""))
        passed.libfuse.send(wire.error_reply(unique, 0))
    passed.session.drain()
    assert [device.told().unique for _ in range(2)] == [1, 2]


def test_a_request_whose_answer_the_kernel_refuses_gets_an_error(
    device: Device, passed: Passed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fuse_dev_do_write: an errno of 512 and more is EINVAL, and the request would hang."""
    passed.negotiate()
    passed.session.send((wire.LOOKUP, 1, 1, 7, b"x"))
    passed.session.send((wire.READ, 2, 1, 7, b""))
    write = os.write

    def kernel(descriptor: int, data: bytes) -> int:
        if descriptor == device.fd and wire.OUT_HEADER.unpack_from(data)[1] <= -512:
            raise OSError(errno.EINVAL, "refused")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", kernel)
    for unique, number in ((1, errno.ENOMEM), (2, errno.EIO)):
        passed.libfuse.send(wire.error_reply(unique, 600))
        assert device.told() == (number, unique, b"")


def test_an_answer_that_nobody_waits_for_is_no_fault(
    device: Device, passed: Passed, caplog: pytest.LogCaptureFixture
) -> None:
    passed.negotiate()
    device.kernel.shutdown(socket.SHUT_RD)  # EPIPE at the next answer
    passed.libfuse.send(wire.error_reply(1, 0))
    wait_until(lambda: caplog.records, what="the warning")
    passed.libfuse.send(wire.error_reply(2, 0))
    wait_until(lambda: len(caplog.records) == 2, what="the relay to go on")
    assert os.strerror(errno.EPIPE) in caplog.records[0].getMessage()
