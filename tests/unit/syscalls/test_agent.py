"""What runtimes send to the agent."""

from __future__ import annotations

import json
import os
import socket
import threading

import pytest

from pylxcfs.syscalls.agent import receive_state

STATE = {"ociVersion": "1.0.2", "fds": ["seccompFd"], "pid": 7, "state": {"id": "x"}}


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    with ours, theirs:
        yield ours, theirs


def received(ours):
    number = receive_state(ours)
    if number is None:
        return None
    name = os.readlink(f"/proc/self/fd/{number}")
    os.close(number)
    return name


def test_a_message_in_pieces_is_over_when_its_json_is(pair):
    """runc 1.1 keeps its end open, so the end of the connection may never come."""
    ours, theirs = pair
    text = json.dumps(STATE).encode()

    def send():
        with open("/dev/null") as file:
            socket.send_fds(theirs, [text[:9]], [file.fileno()])
        for piece in (text[9:30], text[30:]):
            theirs.send(piece)

    threading.Thread(target=send).start()
    assert received(ours) == "/dev/null"


def test_the_listener_is_the_one_that_the_message_names(pair):
    ours, theirs = pair
    with open("/dev/null") as null, open("/dev/zero") as zero:
        state = json.dumps({**STATE, "fds": ["procFd", "seccompFd"]}).encode()
        socket.send_fds(theirs, [state], [null.fileno(), zero.fileno()])
    before = len(os.listdir("/proc/self/fd"))
    assert received(ours) == "/dev/zero"
    assert len(os.listdir("/proc/self/fd")) == before  # and the other one is closed


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"7", b'{"fds": 3}', b'{"fds": ["x"]}'])
def test_a_connection_without_a_listener_is_ignored(pair, text):
    ours, theirs = pair
    with open("/dev/null") as file:
        if text:
            socket.send_fds(theirs, [text], [file.fileno()])
    theirs.close()
    assert received(ours) is None


def test_a_silent_connection_is_given_up(pair):
    ours, _ = pair
    ours.settimeout(0.05)
    assert received(ours) is None
