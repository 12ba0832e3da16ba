"""The process that connected, on kernels that answer SO_PEERPIDFD in different ways."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from pylxcfs.resources.peers import Peer, is_closed


class Kernel:
    """A connection whose kernel answers SO_PEERPIDFD with an error."""

    def __init__(self, connection: socket.socket, number: int) -> None:
        self._connection, self._number = connection, number

    def getsockopt(self, level: int, option: int, size: int = 0) -> bytes:
        if size == 0:
            raise OSError(self._number, os.strerror(self._number))
        return self._connection.getsockopt(level, option, size)


def test_the_peer_of_a_connection():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = Peer.of(ours)
    assert (peer.pid, peer.uid) == (os.getpid(), os.getuid())
    assert peer.lives


def test_before_linux_6_5_the_pidfd_is_opened_by_pid():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert Peer.of(Kernel(ours, errno.ENOPROTOOPT)).lives  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ESRCH])
def test_a_peer_that_was_reaped_is_not_looked_for_by_its_number(number):
    """Linux 6.5 to 6.15. Here the number is that of a process that lives: this one."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = Peer.of(Kernel(ours, number))  # type: ignore[arg-type]
    assert peer.pidfd is None
    assert peer.pidns == 0
    assert not peer.lives


def test_a_connection_that_its_peer_has_closed(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()

        def connect(data: bytes) -> socket.socket:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(listener.getsockname())
            connection.sendall(data)
            return connection

        for data in (b"", b"self\n"):
            connect(data).close()
            with listener.accept()[0] as ours:
                assert is_closed(ours)
            with connect(data) as theirs, listener.accept()[0] as ours:
                assert not is_closed(ours)
                theirs.shutdown(socket.SHUT_WR)
                assert not is_closed(ours)  # it takes an answer
