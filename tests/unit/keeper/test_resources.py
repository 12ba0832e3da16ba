"""The listening socket, held while processes that answer come and go."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from pylxcfs.keeper import resources
from pylxcfs.keeper.resources import LISTEN, STORED, Resources, listen, named

#: Answers each connection with its pid.
ANSWERER = """
import os, socket, sys
listener = socket.socket(fileno=int(sys.argv[1]))
while True:
    with listener.accept()[0] as one:
        one.send(str(os.getpid()).encode())
"""


class Notifier:
    def __init__(self, keeps: bool) -> None:
        self.keeps_descriptors = keeps
        self.sent: list[tuple[str, ...]] = []
        self.fds: list[int] = []

    def send(self, *lines: str, fds: list[int] | None = None) -> bool:
        self.sent.append(lines)
        self.fds += map(os.dup, fds or [])
        return True


@pytest.fixture
def config():
    number = os.memfd_create("config")
    yield number
    os.close(number)


@pytest.fixture
def make(tmp_path: Path, config: int):
    made = []

    def make(keeps: bool = False, given: dict[str, int] | None = None) -> Resources:
        command = [sys.executable, "-S", "-c", ANSWERER]
        one = Resources(str(tmp_path), command, config, Notifier(keeps), given or {})
        made.append(one)
        return one

    yield make
    for one in made:
        one.close(keep=False)


def ask(path: Path | str) -> int:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
        return int(connection.recv(100))


def test_a_connection_waits_for_the_next_process(make, tmp_path):
    held = make()
    path = tmp_path / "resources.sock"
    assert held.path == str(path)
    with socket.socket(socket.AF_UNIX) as early:
        early.settimeout(60)
        early.connect(str(path))  # nobody answers yet
        held.start()
        assert int(early.recv(100)) == held.process.pid
    held.restart()
    assert held.reap() == -signal.SIGKILL
    assert held.process is None
    held.start()
    assert ask(path) == held.process.pid
    assert path.stat().st_mode & 0o777 == 0o666


def test_it_is_stored_and_taken_back(make, tmp_path):
    first = make(keeps=True)
    notifier = first._notifier
    assert notifier.sent == [("FDSTORE=1", f"FDNAME={STORED}", "FDPOLL=0")]
    first.close(keep=True)
    assert (tmp_path / "resources.sock").exists()
    inode = (tmp_path / "resources.sock").stat().st_ino
    again = make(keeps=True, given={STORED: notifier.fds[0]})
    again.start()
    assert ask(tmp_path / "resources.sock") == again.process.pid
    assert (tmp_path / "resources.sock").stat().st_ino == inode
    assert again._notifier.sent == []
    again.close(keep=False)
    assert again._notifier.sent == [("FDSTOREREMOVE=1", f"FDNAME={STORED}")]
    assert not (tmp_path / "resources.sock").exists()


def test_systemds_socket_is_used_instead_and_not_removed(make, tmp_path):
    (tmp_path / "systemd").mkdir()
    theirs = socket.socket(socket.AF_UNIX)
    theirs.bind(str(tmp_path / "systemd/resources.sock"))  # by its path, as systemd does
    theirs.listen()
    stored = os.dup(theirs.fileno())
    held = make(keeps=True, given={LISTEN: theirs.detach(), STORED: stored})
    assert held._notifier.sent == [("FDSTOREREMOVE=1", f"FDNAME={STORED}")]
    held.start()
    path = tmp_path / "systemd/resources.sock"
    assert held.path == str(path)
    assert ask(path) == held.process.pid
    held.close(keep=False)
    assert path.exists()
    assert not (tmp_path / "resources.sock").exists()


def test_an_old_socket_is_replaced(tmp_path):
    listen(str(tmp_path)).close()
    with listen(str(tmp_path)) as listener, socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(tmp_path / "resources.sock"))
        listener.accept()[0].close()


def test_paths_may_be_long(tmp_path):
    directory = tmp_path / ("x" * 120)
    directory.mkdir()
    listen(str(directory)).close()
    assert (directory / "resources.sock").is_socket()


def test_what_systemd_passes_is_chosen_by_name():
    assert named({"pylxcfs-own": 3, LISTEN: 4, STORED: 5, "x": 6}) == {LISTEN: 4, STORED: 5}
    assert resources.named({}) == {}
