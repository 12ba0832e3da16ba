from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pylxcfs.keeper import sdnotify
from pylxcfs.keeper.sdnotify import Notifier, listen_fds


def test_without_a_socket_nothing_is_sent() -> None:
    notifier = Notifier({"FDSTORE": "8", "WATCHDOG_USEC": "1000000"})
    assert not notifier.send("READY=1")
    assert not notifier.keeps_descriptors
    assert notifier.watchdog_s == 0


@pytest.mark.parametrize("abstract", [False, True])
def test_lines_and_descriptors_arrive_in_one_message(tmp_path: Path, abstract: bool) -> None:
    name = f"\0pylxcfs-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel, open(os.devnull) as null:
        channel.bind(name)
        notifier = Notifier({"NOTIFY_SOCKET": name.replace("\0", "@")})
        assert notifier.send("FDSTORE=1", "FDNAME=x", fds=[null.fileno()])
        data, fds, _, _ = socket.recv_fds(channel, 4096, 4)
    assert data == b"FDSTORE=1\nFDNAME=x"
    assert len(fds) == 1
    os.close(fds[0])


def test_a_socket_that_is_gone_is_no_failure(tmp_path: Path) -> None:
    assert not Notifier({"NOTIFY_SOCKET": str(tmp_path / "none")}).send("READY=1")


@pytest.mark.parametrize(
    ("env", "keeps"), [({}, False), ({"FDSTORE": "0"}, False), ({"FDSTORE": "8"}, True)]
)
def test_an_fd_store_must_be_promised(env: dict[str, str], keeps: bool) -> None:
    assert Notifier({"NOTIFY_SOCKET": "/x", **env}).keeps_descriptors is keeps


def test_a_watchdog_of_another_process_is_not_ours() -> None:
    env = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "2500000"}
    assert Notifier(env).watchdog_s == 2.5
    assert Notifier({**env, "WATCHDOG_PID": str(os.getpid())}).watchdog_s == 2.5
    assert Notifier({**env, "WATCHDOG_PID": "1"}).watchdog_s == 0


def test_descriptors_are_found_by_name() -> None:
    env = {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b", "LISTEN_PID": str(os.getpid())}
    assert listen_fds(env) == {"a": 3, "b": 4}
    assert listen_fds({**env, "LISTEN_PID": "1"}) == {}
    assert listen_fds({**env, "LISTEN_FDS": "x"}) == {}
    assert listen_fds({}) == {}


def test_children_do_not_see_what_is_ours() -> None:
    env = {"NOTIFY_SOCKET": "/x", "LISTEN_FDS": "1", "FDSTORE": "8", "PATH": "/bin"}
    sdnotify.forget(env)
    assert env == {"PATH": "/bin"}


def test_the_journal_is_told_from_an_inherited_variable() -> None:
    status = os.fstat(2)
    assert sdnotify.stderr_is_journal({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
    assert not sdnotify.stderr_is_journal({"JOURNAL_STREAM": "0:0"})
    assert not sdnotify.stderr_is_journal({})
