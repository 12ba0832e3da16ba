"""The listening socket, held while processes that answer come and go."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from pylxcfs.errors import InstanceError
from pylxcfs.keeper.resources import LISTEN, STORED, Resources, listen, listener_in, take

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


@pytest.mark.parametrize("wanted", [False, True])
def test_systemds_socket_is_used_instead_and_not_removed(make, tmp_path, wanted):
    path = tmp_path / "resources.sock"
    with listen(str(tmp_path)) as stored:
        path.unlink()
        theirs = socket.socket(socket.AF_UNIX)
        theirs.bind(str(path))  # by its path, as systemd does
        theirs.listen()
        given = {LISTEN: theirs.detach(), STORED: stored.fileno(), "pylxcfs-own": 99}
        taken = take(given, str(tmp_path), wanted=wanted)
        assert given == {STORED: stored.fileno(), "pylxcfs-own": 99}  # for the caller to drop
    held = make(keeps=True, given=taken)
    held.start()
    assert held.path == str(path)
    assert ask(path) == held.process.pid
    held.close(keep=False)
    assert held._notifier.sent == []
    assert path.exists()


def test_a_stored_socket_is_taken_if_it_is_wanted(tmp_path):
    with listen(str(tmp_path)) as stored:
        number = stored.fileno()
        given = {STORED: number}
        assert take(given, str(tmp_path), wanted=True) == {STORED: number}
        assert given == {}
        assert (tmp_path / "resources.sock").exists()
        given = {STORED: number}
        assert take(given, str(tmp_path), wanted=False) == {}
        assert given == {STORED: number}
        assert not (tmp_path / "resources.sock").exists()
    assert take({}, str(tmp_path), wanted=True) == {}


def test_an_old_socket_is_replaced(tmp_path):
    listen(str(tmp_path)).close()
    with listen(str(tmp_path)) as listener, socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(tmp_path / "resources.sock"))
        listener.accept()[0].close()


def test_an_empty_directory_is_replaced_and_no_other(tmp_path):
    path = tmp_path / "resources.sock"
    path.mkdir()  # as `docker run -v` does where there is no socket yet
    listen(str(tmp_path)).close()
    assert path.is_socket()
    path.unlink()
    (path / "file").mkdir(parents=True)
    with pytest.raises(OSError, match=f"not empty: '{path}'"):
        listen(str(tmp_path))


@pytest.mark.parametrize("waiting", [0, 1])
def test_a_socket_on_which_a_process_listens_is_not_replaced(tmp_path, waiting):
    path = str(tmp_path / "resources.sock")
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(listen(str(tmp_path)))
        first.listen(0)  # with one connection its queue is full
        inode = os.stat(path).st_ino
        for _ in range(waiting):
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(path)
        with pytest.raises(InstanceError, match="another resources service listens at") as error:
            listen(str(tmp_path))
        assert "--runtime-dir" in error.value.hint
        assert os.stat(path).st_ino == inode


def test_a_listener_removes_its_own_socket_alone(tmp_path):
    path = tmp_path / "resources.sock"
    with listener_in(str(tmp_path)):
        assert path.is_socket()
    assert not path.exists()
    with listener_in(str(tmp_path)):
        path.unlink()
        with listen(str(tmp_path)):
            inode = path.stat().st_ino
    assert path.stat().st_ino == inode


def test_an_instance_removes_its_own_socket_alone(make, tmp_path):
    held, path = make(), tmp_path / "resources.sock"
    path.unlink()
    with listen(str(tmp_path)):
        inode = path.stat().st_ino
        held.close(keep=False)
        assert path.stat().st_ino == inode


def test_paths_may_be_long(tmp_path):
    directory = tmp_path / ("x" * 120)
    directory.mkdir()
    with listen(str(directory)):
        assert (directory / "resources.sock").is_socket()
        with pytest.raises(InstanceError):
            listen(str(directory))
