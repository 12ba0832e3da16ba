"""Seccomp listeners, held while agents come and go."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylxcfs.keeper import listeners
from pylxcfs.keeper.listeners import Listeners, named
from tests.conftest import wait_until

#: An agent that says in a file what it is given, and sends back what a runtime's socket hands it.
AGENT = """
import os, socket, sys
oci, lxc, channel, shared, config = map(int, sys.argv[2:])
channel = socket.socket(fileno=channel)
with open(sys.argv[1], "a", buffering=1) as said:
    if os.path.exists(sys.argv[1] + ".hold"):
        with open("/dev/null") as file:
            socket.send_fds(channel, [b"oci"], [file.fileno()])
    while message := socket.recv_fds(channel, 64, 1):
        if not message[0]:
            break
        name = os.readlink(f"/proc/self/fd/{message[1][0]}")
        said.write(f"{message[0].decode()} {name}\\n")
        if os.path.exists(sys.argv[1] + ".end"):
            channel.send(b"end 0")
"""


class Notifier:
    keeps_descriptors = True

    def __init__(self) -> None:
        self.sent: list[tuple[str, ...]] = []

    def send(self, *lines: str, fds: list[int] | None = None) -> bool:
        self.sent.append(lines)
        return True


@pytest.fixture
def notifier() -> Notifier:
    return Notifier()


@pytest.fixture
def held(tmp_path: Path, notifier: Notifier) -> Iterator[Listeners]:
    (tmp_path / "agent.py").write_text(AGENT)
    command = [sys.executable, str(tmp_path / "agent.py"), str(tmp_path / "said")]
    config = os.memfd_create("config")
    made = Listeners(str(tmp_path), command, config, notifier)
    yield made
    made.close(keep=True)
    os.close(config)


def said(tmp_path: Path) -> list[str]:
    path = tmp_path / "said"
    return path.read_text().splitlines() if path.exists() else []


def turn(held: Listeners) -> None:
    for work in held.handlers().values():
        work()


def test_sockets_are_for_root_alone(held: Listeners, tmp_path: Path) -> None:
    for name in ("seccomp.sock", "seccomp-lxc.sock"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_a_listener_is_held_for_the_next_agent(
    held: Listeners, tmp_path: Path, notifier: Notifier
) -> None:
    (tmp_path / "said.hold").touch()
    held.start()
    turn(held)
    wait_until(lambda: said(tmp_path) == ["oci 0 0 /dev/null"], 20, what="the first agent")
    assert notifier.sent == [("FDSTORE=1", "FDNAME=pylxcfs-seccomp-oci-0")]
    (tmp_path / "said.hold").unlink()
    os.pwrite(held._shared, (77).to_bytes(8, "little"), 0)  # the id of the last call
    held.agent.send(signal.SIGKILL)
    assert held.end_agent() == -signal.SIGKILL
    held.start()
    wait_until(lambda: said(tmp_path)[1:] == ["oci 0 77 /dev/null"], 20, what="the second agent")


def test_a_listener_whose_container_has_ended_is_dropped(
    held: Listeners, tmp_path: Path, notifier: Notifier
) -> None:
    (tmp_path / "said.hold").touch()
    (tmp_path / "said.end").touch()
    held.start()
    turn(held)
    turn(held)
    assert held._held == {}
    assert notifier.sent[-1] == ("FDSTOREREMOVE=1", "FDNAME=pylxcfs-seccomp-oci-0")


def test_an_agent_that_has_ended_is_noticed_by_its_channel(held: Listeners) -> None:
    held.start()
    held.agent.send(signal.SIGKILL)
    turn(held)
    assert held.handlers() == {}
    assert held.end_agent() == -signal.SIGKILL


def test_listeners_of_the_start_before_are_taken_over(tmp_path: Path, notifier: Notifier) -> None:
    (tmp_path / "agent.py").write_text(AGENT)
    command = [sys.executable, str(tmp_path / "agent.py"), str(tmp_path / "said")]
    config, null = os.memfd_create("config"), os.open("/dev/null", os.O_RDONLY)
    given = {"pylxcfs-own": 3, "pylxcfs-seccomp-lxc-12": null, "pylxcfs-seccomp-x-1": 4}
    assert named(given) == {"pylxcfs-seccomp-lxc-12": null}
    made = Listeners(str(tmp_path), command, config, notifier, named(given))
    made.start()
    wait_until(lambda: said(tmp_path) == ["lxc 12 0 /dev/null"], 20, what="the agent")
    made.close(keep=True)
    assert not notifier.sent  # they stay in the store
    os.close(config)


def test_more_listeners_than_there_is_room_for_are_left_to_the_kernel(
    held: Listeners, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "MOST", 0)
    left: list[object] = []
    monkeypatch.setattr(listeners.child, "fork", lambda work, **_: left.append(work))
    ours, theirs = socket.socketpair()
    with ours:
        held._hold("oci", theirs.detach())
    assert held._held == {}
    assert len(left) == 1
