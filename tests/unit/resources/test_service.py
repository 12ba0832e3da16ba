"""The service, asked by processes of this machine, good ones and bad ones."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
import trio.testing

from pylxcfs import resources
from pylxcfs.errors import Gone
from pylxcfs.guard import Guard
from pylxcfs.keeper.resources import listen
from pylxcfs.resources import openapi
from pylxcfs.resources.peers import Peer
from pylxcfs.resources.protocol import Conversation
from pylxcfs.resources.query import Query
from pylxcfs.resources.service import MOST_STREAMS, Service, _Container
from pylxcfs.resources.watch import Watched
from tests.kit.asking import Http, check, check_event, connect, get, line, rest, serving
from tests.unit.resources.conftest import v2_cgroup

GET = b"GET /v1/self HTTP/1.1\r\nHost: x\r\n\r\n"
#: For what is cut off: much longer than a good client needs for one step.
SHORT_S = 0.3


@pytest.fixture
def service(tmp_path: Path):
    with serving(tmp_path) as path:
        yield path


def test_both_protocols_say_the_same(service):
    by_line = line(service)
    status, by_http = get(service, "/v1/self")
    assert status == 200
    for found in (by_line, by_http):
        check(found, "Resources")
    for name in ("cpu", "cgroup", "numa_nodes", "sources", "scope"):
        assert by_line[name] == by_http[name]


def test_a_connection_is_used_again(service):
    client = Http(service)
    for target in ("/v1/self", f"/v1/processes/{os.getpid()}", "/v1/openapi.json", "/v1/self"):
        assert client.get(target)[0] == 200
    assert client.get("/v1/openapi.json")[1] == json.loads(openapi.ANSWER.body)
    client.close()


def test_devices(service):
    status, found = get(service, "/v1/self/devices")
    assert status == 200
    check(found, "Devices")
    assert found == json.loads(json.dumps(resources.devices().document()))
    assert get(service, f"/v1/processes/{os.getpid()}/devices") == (200, found)
    for command in ("devices", f"devices {os.getpid()}"):
        assert line(service, command) == found
    assert get(service, "/v1/processes/0/devices")[0] == 404
    assert "no such process" in line(service, "devices 0")["error"]


def test_a_process_that_is_not_there(service):
    status, found = get(service, "/v1/processes/0")
    assert status == 404
    check(found, "Error")
    check(line(service, "pid 0"), "Error")
    for number in (4194305, 2**31, 2**32 + os.getpid(), 9999999999):
        assert get(service, f"/v1/processes/{number}")[0] == 404
        assert "no such process" in line(service, f"pid {number}")["error"]
    with pytest.raises(Gone):
        next(resources.watch(2**40))
    assert "hint" in line(service, "what")


def test_a_client_that_has_ended_is_not_answered(service):
    """Its pid may be another's: here its child holds the connection."""
    script = (
        "import os, socket, sys\n"
        "one = socket.socket(socket.AF_UNIX); one.connect(sys.argv[1])\n"
        "one.send(b'GET /v1/openapi.json HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'); one.recv(100)\n"
        "if os.fork():\n"
        "    os._exit(0)\n"
        "sys.stdin.read()\n"
        "one.send(b'GET /v1/self HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n')\n"
        "data = b''\n"
        "while part := one.recv(65536): data += part\n"
        "sys.stdout.buffer.write(data)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(service)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    child.wait()
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.close()  # the parent has ended and was reaped: now ask
    assert b"HTTP/1.1 410 " in child.stdout.read()
    child.stdout.close()


def test_a_stream_ends_with_the_process_that_connected(service, monkeypatch):
    """At once, while another process holds the connection."""
    monkeypatch.setattr("pylxcfs.resources.service.COMMENT_S", float("inf"))
    script = (
        "import socket, sys\n"
        "one = socket.socket(fileno=int(sys.argv[2])); one.connect(sys.argv[1])\n"
        "one.send(b'GET /v1/self/events HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )
    with socket.socket(socket.AF_UNIX) as held:
        command = [sys.executable, "-c", script, str(service), str(held.fileno())]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[held.fileno()]
        ) as client:
            assert client.stdout is not None
            client.stdout.readline()
            data = b""
            while b"event: resources" not in data:
                data += held.recv(65536)
            client.communicate()
        rest(held)  # it ends


def test_the_end_of_a_client_in_the_middle_is_no_error(service):
    for data in (b"", b"se", GET[:9], GET):
        with connect(service) as connection:
            connection.sendall(data)
    assert line(service)["scope"]


def test_a_client_that_has_sent_all_may_close_its_half(service):
    for data in (b"self\n", b"self"):
        with connect(service) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            assert json.loads(rest(connection))["scope"]
    with connect(service) as connection:
        connection.sendall(GET)
        connection.shutdown(socket.SHUT_WR)
        assert rest(connection).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("data", [b"", b"se", b"GET /v1/self HTTP/1.1\r\nHost: x\r\n"])
def test_a_silent_client_is_cut_off(tmp_path, data):
    with serving(tmp_path, request_s=SHORT_S) as path, connect(path) as connection:
        connection.sendall(data)
        assert rest(connection) == b""


def test_a_slow_client_is_cut_off(tmp_path):
    """It sends a byte now and then, so it is never silent."""
    with serving(tmp_path, request_s=SHORT_S) as path, connect(path) as connection:
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            _send_for_ever(connection, b"x")
        assert line(path)["scope"]


def test_a_client_that_takes_no_answers_is_cut_off(tmp_path):
    with serving(tmp_path, take_s=SHORT_S) as path, connect(path) as connection:
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            _send_for_ever(connection, GET)
        assert line(path)["scope"]


def _send_for_ever(connection: socket.socket, data: bytes) -> None:
    while True:
        connection.sendall(data)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"y" * (1 << 20), 0),
        (b"GET /v1/self HTTP/1.1\r\n" + b"x: y\r\n" * (1 << 18), 431),
        (GET[:-2] + b"Content-Length: 999999999999\r\n\r\n" + b"y" * (1 << 20), 413),
        (b"GET /v1/self HTTP/1.1\r\n: y\r\n\r\n" + b"y" * (1 << 20), 400),
    ],
)
def test_a_huge_request_is_refused_before_it_was_read(service, data, status):
    """By an answer, which a client receives that reads while it sends."""
    with connect(service) as connection, ThreadPoolExecutor() as threads:
        answer = threads.submit(rest, connection)
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            _send_for_ever(connection, data)
        head, _, body = answer.result().rpartition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status) if status else head == b""
    check(json.loads(body), "Error")
    assert line(service)["scope"]


@pytest.mark.parametrize(
    ("data", "start"),
    [
        (GET[:-2] + b"x: " + b"y" * 20000 + b"\r\n\r\n", b"HTTP/1.1 431 "),
        (b"y" * 20000, b'{"error": '),
    ],
)
def test_a_client_that_has_sent_too_much_reads_an_answer_and_the_end(service, data, start):
    """No error (ECONNRESET) behind the answer."""
    with connect(service) as connection:
        connection.sendall(data)
        assert connection.recv(65536).startswith(start)
        assert connection.recv(65536) == b""


def test_bytes_are_received_in_turn_with_the_other_connections_of_a_container(tmp_path):
    """Else those that send a byte at a time get more than the share of one."""
    with contextlib.closing(Query()) as query, listen(str(tmp_path)) as listener:
        service, container = Service(query, listener, Guard()), _Container()
        ours, theirs = socket.socketpair()

        async def talk() -> None:
            with trio.socket.from_stdlib_socket(ours) as connection:
                peer = Peer.of(ours)
                await service._talk(connection, peer, container, lambda: None)

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(talk)
                async with container.lock:
                    theirs.sendall(b"self\n")
                    await trio.testing.wait_all_tasks_blocked()
                    assert ours.recv(100, socket.MSG_PEEK) == b"self\n"

        ours.setblocking(False)
        with theirs:
            trio.run(main)
            assert json.loads(rest(theirs))["scope"]


def test_more_connections_than_one_may_have_are_closed_and_others_are_served(tmp_path):
    with serving(tmp_path, most_each=8) as path, ExitStack() as stack:
        held = [stack.enter_context(connect(path)) for _ in range(8)]
        with connect(path) as one_more:
            assert rest(one_more) == b""
        for one in held:
            one.sendall(b"self\n")
            assert json.loads(rest(one))["scope"]
        for one in held:
            one.close()
        assert line(path)["scope"]


def test_connections_that_were_closed_in_the_queue_cost_no_look_at_their_peer(
    tmp_path, monkeypatch
):
    peers = []
    of = Peer.of
    monkeypatch.setattr(Peer, "of", lambda connection: peers.append(1) or of(connection))
    listener = listen(str(tmp_path))
    for _ in range(100):
        with connect(tmp_path / "resources.sock") as connection:
            connection.sendall(b"self\n")
    with serving(tmp_path, listener=listener) as path:
        assert line(path)["scope"]
    assert len(peers) == 1


def test_many_requests_in_one_piece_are_all_answered(service):
    with connect(service) as connection:
        connection.sendall(GET * 40 + GET[:-2] + b"Connection: close\r\n\r\n")
        assert rest(connection).count(b"HTTP/1.1 200 OK") == 41


def test_streams_of_events_are_limited(service):
    with ExitStack() as stack:
        streams = []
        for _ in range(MOST_STREAMS):
            client = Http(service)
            stack.callback(client.close)
            events = client.events()
            assert check_event(next(events)) == []
            streams.append(events)
        status, found = get(service, "/v1/self/events")
        assert status == 429
        check(found, "Error")


@pytest.mark.parametrize("end", ["shutdown", "send"])
def test_a_stream_ends_with_its_client(service, monkeypatch, end):
    """At once: no comment is sent here, by which it would be noticed as well."""
    monkeypatch.setattr("pylxcfs.resources.service.COMMENT_S", float("inf"))
    with ExitStack() as stack:
        clients = [Http(service) for _ in range(MOST_STREAMS)]
        for client in clients:
            stack.callback(client.close)
            assert check_event(next(client.events())) == []
        for client in clients:
            assert client.sock is not None
            if end == "shutdown":
                client.sock.shutdown(socket.SHUT_WR)
            else:
                client.sock.sendall(GET)
        for client in clients:
            assert client.sock is not None
            assert rest(client.sock) == b""
        one_more = Http(service)
        stack.callback(one_more.close)
        assert check_event(next(one_more.events())) == []


def test_a_head_of_events_is_a_head(service):
    with connect(service) as connection:
        connection.sendall(GET.replace(b"GET", b"HEAD").replace(b"self", b"self/events"))
        data = rest(connection)
        assert data.startswith(b"HTTP/1.1 200 OK")
        assert data.endswith(b"\r\n\r\n")
    assert line(service)["scope"]


def test_a_bug_of_a_connection_ends_that_connection_alone(service, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        patch.setattr(Conversation, "answer", lambda *_, **__: 1 // 0)
        with connect(service) as connection:
            connection.sendall(b"self\n")
            assert rest(connection) == b""
    assert line(service)["scope"]
    assert "ZeroDivisionError" in caplog.text


def test_a_process_that_ends_while_it_is_read(service, monkeypatch):
    """Itself it lives by its pidfd for a moment longer; the document has no 404 for /v1/self."""

    def gone(self: Query, pid: int) -> None:
        raise Gone("all threads have ended")

    with monkeypatch.context() as patch:
        patch.setattr(Query, "of", gone)
        assert get(service)[0] == 503
        assert get(service, f"/v1/processes/{os.getppid()}")[0] == 404
    assert get(service)[0] == 200


def test_a_stream_ends_when_its_cgroup_cannot_be_read(service, monkeypatch):
    def gone(self: Watched) -> None:
        raise Gone("its cgroup")

    client = Http(service)
    events = client.events()
    assert check_event(next(events)) == []
    with monkeypatch.context() as patch:
        patch.setattr(Watched, "take_writes", lambda self: True)
        patch.setattr(Watched, "look", gone)
        line(service)
        assert list(events) == []
    client.close()


def test_a_stream_that_reads_of_writes_wakes_the_others(tmp_path, v2):
    v2_cgroup(v2, "a/b")
    query = Query(root=str(v2.root))
    with contextlib.closing(query), listen(str(tmp_path)) as listener:
        service = Service(query, listener, Guard())
        file = v2.root / "sys/fs/cgroup/a/b/memory.max"
        watch = query.hierarchies.writes.watch(str(file))
        waited_for = service._written
        file.write_text("1\n")
        service._read(Peer(0, 0, 0, None), query.hierarchies.writes.look)
        assert watch is not None
        assert watch.writes
        assert waited_for.is_set()


def test_a_bug_is_answered_and_logged(tmp_path, monkeypatch, caplog):
    query = Query()
    monkeypatch.setattr(query, "of", lambda pid: 1 // 0)
    with serving(tmp_path, query) as path:
        assert line(path)["error"] == "a bug of pylxcfs"
        assert get(path, "/v1/self")[0] == 500
    assert "ZeroDivisionError" in caplog.text
