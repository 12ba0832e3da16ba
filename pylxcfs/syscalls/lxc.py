"""liblxc's seccomp proxy: a message for each call (src/lxc/seccomp.c, lxc.seccomp.notify.proxy).

    u64 0, i32 pid of the monitor, i32 pid of init, u16 sizes of the three parts, 2 bytes,
    u64 length of the cookie; then struct seccomp_notif, struct seccomp_notif_resp, cookie;
    with descriptors of /proc/PID, its mem and the listener

The reply is the same without the cookie. liblxc sends the answer to the kernel itself.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final

from pylxcfs.errors import PylxcfsError
from pylxcfs.syscalls.answers import Answers
from pylxcfs.syscalls.notify import PASS, Listener, pack, parse

_HEAD: Final = struct.Struct("=QiiHHH2xQ")
_NOTIF: Final = 80
_RESP: Final = 24
_MOST: Final = 4096
_LISTENER: Final = 2
_MOST_FDS: Final = 4


def serve(connection: socket.socket, answers: Answers) -> None:
    """Answer the calls of one container until its monitor closes."""
    while True:
        # The message stays in the socket until it is answered: the next agent finds it there.
        data, numbers = _peek(connection)
        try:
            if not data:
                return
            reply = _reply(data, numbers, answers)
        finally:
            for number in numbers:
                os.close(number)
        connection.recv(_MOST)
        connection.send(reply)


def _peek(connection: socket.socket) -> tuple[bytes, array.array[int]]:
    """Return the next message and its descriptors; socket.recv_fds would take it out."""
    numbers = array.array("i")
    space = socket.CMSG_SPACE(_MOST_FDS * numbers.itemsize)
    data, ancillary, _, _ = connection.recvmsg(_MOST, space, socket.MSG_PEEK)
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(content[: len(content) // numbers.itemsize * numbers.itemsize])
    return data, numbers


def _reply(data: bytes, numbers: Sequence[int], answers: Answers) -> bytes:
    call = parse(data[_HEAD.size : _HEAD.size + _NOTIF])
    answer = PASS
    if len(numbers) > _LISTENER:
        with contextlib.suppress(PylxcfsError, OSError):
            answer = answers.find(Listener(numbers[_LISTENER]), call)
    return data[: _HEAD.size + _NOTIF] + pack(call.ident, answer)
