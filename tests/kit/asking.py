"""Clients of the resources service, and a service in a thread.

What the service answers by HTTP is held against its own description (openapi.json).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import trio

from pylxcfs.guard import Guard
from pylxcfs.keeper.resources import listen
from pylxcfs.resources import openapi
from pylxcfs.resources.query import Query
from pylxcfs.resources.service import Service

#: A test that passes never waits this long, even in a virtual machine without KVM.
DEADLINE_S = 60.0
#: Asks by the line protocol; of the standard library alone, so that it starts fast.
CLIENT = """
import socket, sys
with socket.socket(socket.AF_UNIX) as one:
    one.connect(sys.argv[1])
    one.sendall(sys.argv[2].encode() + b"\\n")
    while part := one.recv(65536):
        sys.stdout.buffer.write(part)
"""


DOCUMENT: dict[str, Any] = json.loads(openapi.ANSWER.body)


def check(value: Any, schema: str) -> None:
    """Fail if a value is not as a schema of the document says."""
    validate(value, DOCUMENT["components"]["schemas"][schema])


def check_event(value: dict[str, Any]) -> list[str]:
    """Fail if an event is not as the document says; return what it says has changed."""
    _, event = DOCUMENT["components"]["schemas"]["Event"]["allOf"]
    rest = {name: one for name, one in value.items() if name not in event["properties"]}
    jsonschema.Draft202012Validator(event).validate(value)
    check(rest, "Resources")
    return value["changed"]


def validate(value: Any, schema: Any) -> None:
    """Fail if a value is not as a schema says, or has a field that the schema does not have."""
    whole = {**schema, "components": DOCUMENT["components"]}
    jsonschema.Draft202012Validator(_closed(whole)).validate(json.loads(json.dumps(value)))


def _closed(schema: Any) -> Any:
    """Return a schema by which a field that is not described is an error."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {"additionalProperties": False} if "properties" in schema else {}
    return {**{name: _closed(value) for name, value in schema.items()}, **closed}


def response_of(target: str, status: int) -> dict[str, Any]:
    """Return what the document says of the answer to a GET. Fail if it has no such answer."""
    path = re.sub(r"^/v1/processes/\d+", "/v1/processes/{pid}", target.partition("?")[0])
    if path not in DOCUMENT["paths"]:
        assert status == 404, f"{status} for {target}, which no path of the document is"
        path = "/v1/self"  # its errors are those of all
    responses = DOCUMENT["paths"][path]["get"]["responses"]
    assert str(status) in responses, f"{status} for {target} is not in the document"
    return responses[str(status)]


def connect(path: Path | str) -> socket.socket:
    """Return a connection."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(DEADLINE_S)
    connection.connect(str(path))
    return connection


def rest(connection: socket.socket) -> bytes:
    """Return all bytes until the end of a connection."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            data += part
    return data


def line(path: Path | str, command: str = "self") -> dict[str, Any]:
    """Ask by the line protocol."""
    with connect(path) as connection:
        connection.sendall(f"{command}\n".encode())
        return json.loads(rest(connection))


class Http(http.client.HTTPConnection):
    """A connection of HTTP over a unix socket."""

    def __init__(self, path: Path | str) -> None:
        super().__init__("localhost", timeout=DEADLINE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = connect(self._path)

    def get(self, target: str) -> tuple[int, dict[str, Any]]:
        """Return status and JSON."""
        self.request("GET", target)
        response = self.getresponse()
        document = json.loads(response.read())
        described = response_of(target, response.status)["content"]
        assert response.headers["content-type"] in described
        validate(document, described[response.headers["content-type"]].get("schema", {}))
        return response.status, document

    def events(self, target: str = "/v1/self/events") -> Iterator[dict[str, Any]]:
        """Yield the data of events."""
        self.request("GET", target)
        response = self.getresponse()
        assert response.headers["content-type"] == "text/event-stream"
        assert "text/event-stream" in response_of(target, response.status)["content"]
        while True:
            text = response.readline()
            if not text:
                return
            if text.startswith(b"data: "):
                event = json.loads(text.removeprefix(b"data: "))
                check_event(event)
                yield event


def get(path: Path | str, target: str = "/v1/self") -> tuple[int, dict[str, Any]]:
    """Return status and JSON, over a connection of its own."""
    with contextlib.closing(Http(path)) as client:
        return client.get(target)


@contextlib.contextmanager
def serving(
    directory: Path,
    query: Query | None = None,
    *,
    listener: socket.socket | None = None,
    **options: Any,
) -> Iterator[Path]:
    """Serve in a thread; yield the path of the socket. `listener`: the directory's, else a new one.

    It is closed at the end.
    """
    query = query or Query(sample=True)
    listener = listener or listen(str(directory))
    started, failed = threading.Event(), []
    scope = trio.CancelScope()
    tokens: list[trio.lowlevel.TrioToken] = []

    async def main() -> None:
        tokens.append(trio.lowlevel.current_trio_token())
        started.set()
        with scope:
            await Service(query, listener, Guard(), **options).run()

    def work() -> None:
        try:
            trio.run(main)
        except BaseException as error:  # noqa: BLE001  the test fails with it
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    started.wait()
    try:
        yield directory / "resources.sock"
    finally:
        tokens[0].run_sync_soon(scope.cancel)
        thread.join()
        query.close()
        listener.close()
    assert failed == []
