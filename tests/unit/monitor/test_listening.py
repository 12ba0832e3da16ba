"""Metrics over TCP and a unix socket; no file is replaced by one."""

from __future__ import annotations

import errno
import http.client
import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from pylxcfs.errors import HostError
from pylxcfs.monitor import listening


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"pylxcfs_up 1\n"]


def get(connection: socket.socket) -> bytes:
    with connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.read()


def free_port(family: int, host: str) -> int:
    with socket.socket(family) as probe:
        try:
            probe.bind((host, 0))
        except OSError as error:
            pytest.skip(f"no {host} here: {error}")
        return probe.getsockname()[1]


@pytest.mark.parametrize("kind", ["v4", "v6", "unix"])
def test_a_scrape_is_answered(kind: str, tmp_path: Path) -> None:
    if kind == "unix":
        address = place = f"{tmp_path}/metrics"
        family = socket.AF_UNIX
    else:
        family = socket.AF_INET if kind == "v4" else socket.AF_INET6
        host = "127.0.0.1" if kind == "v4" else "::1"
        place = host, free_port(family, host)
        address = f"[::1]:{place[1]}" if kind == "v6" else f"127.0.0.1:{place[1]}"
    server = listening.serve(address, application)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        for _ in range(2):
            connection = socket.socket(family)
            connection.connect(place)
            assert get(connection) == b"pylxcfs_up 1\n"
        if kind == "unix":
            assert stat.S_IMODE(os.stat(address).st_mode) == 0o600
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_socket_of_an_earlier_process_is_replaced(tmp_path: Path) -> None:
    for _ in range(2):
        listening.serve(f"{tmp_path}/metrics", application).server_close()


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "metrics").write_text("kept")
    with pytest.raises(OSError, match="in use") as caught:
        listening.serve(f"{tmp_path}/metrics", application)
    assert caught.value.errno == errno.EADDRINUSE
    assert (tmp_path / "metrics").read_text() == "kept"


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    listening.need_package()
    monkeypatch.setattr(listening.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HostError) as caught:
        listening.need_package()
    assert "pip install 'pylxcfs[metrics]'" in caught.value.hint
