"""The client of the counters: every bad answer is none."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pylxcfs.fuse import memory
from pylxcfs.monitor import instance


def answering(directory: Path, answer: Callable[[socket.socket], None]) -> threading.Thread:
    listener = socket.socket(socket.AF_UNIX)
    number = os.open(directory, os.O_PATH)
    listener.bind(f"/proc/self/fd/{number}/counters")
    os.close(number)
    listener.listen(1)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, listener:
            answer(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("text", "found"),
    [(b'{"a": 1}', {"a": 1}), (b"", None), (b'{"a"', None), (b"[1]", None), (b"\xff", None)],
)
def test_an_answer_is_an_object(tmp_path: Path, text: bytes, found: object) -> None:
    thread = answering(tmp_path, lambda connection: connection.sendall(text))
    assert instance.ask(str(tmp_path)) == found
    thread.join()


def test_the_path_of_the_directory_may_be_long(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100) / ("y" * 100)
    deep.mkdir(parents=True)
    thread = answering(deep, lambda connection: connection.sendall(b"{}"))
    assert instance.ask(str(deep)) == {}
    thread.join()


def test_a_server_that_says_nothing_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instance, "_PATIENCE_S", 0.05)
    over = threading.Event()
    thread = answering(tmp_path, lambda connection: (over.wait(30), None)[1])
    assert instance.ask(str(tmp_path)) is None
    over.set()
    thread.join()


def test_without_a_server_there_are_no_counters(tmp_path: Path) -> None:
    assert instance.ask(str(tmp_path)) is None
    assert instance.ask(str(tmp_path / "nothing")) is None
    left = socket.socket(socket.AF_UNIX)
    left.bind(f"{tmp_path}/counters")  # of a server that has ended
    left.close()
    assert instance.ask(str(tmp_path)) is None


def test_devices_are_those_of_the_connections_that_a_process_holds() -> None:
    number = memory.make("own", "0:4711", True)
    assert instance.devices_of(os.getpid()) == {"0:4711"}
    os.close(number)
    assert instance.devices_of(os.getpid()) == frozenset()
    assert instance.devices_of(0) == frozenset()
