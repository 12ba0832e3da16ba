"""Both protocols of the socket, without I/O: bytes in, requests out; answers in, bytes out.

    line    self\n, pid NUMBER\n, devices\n, devices NUMBER\n: one line of JSON, and the connection
            is closed. The end of what the client sends stands for the newline
    HTTP    HTTP/1.1 by h11: GET /v1/self, /v1/processes/NUMBER, ... with answers in JSON

The first line says which it is: HTTP/ is in it, or it begins with a method and is longer than any
command. A request is at most 8 KiB and has no body.

    state     receives                        becomes
    FIRST     a line of HTTP                  HTTP
    FIRST     any other line                  LINE
    LINE      an answer                       CLOSED
    HTTP      an answer                       HTTP, or CLOSED as HTTP says
    HTTP      the answer "events"             EVENTS, to its end
    any       a request that is refused       CLOSED
"""

from __future__ import annotations

import json
import re
from enum import Enum
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import h11

#: Bytes of a request. Its headers are of no interest, so this is more than any client sends.
MOST_BYTES: Final = 8192
#: Bytes of the first line, of which the longest that is understood has 32.
_MOST_LINE: Final = 4096

_LINE: Final = re.compile(rb"(?:self|(devices)|(?:pid|(devices)) ([0-9]{1,10}))\r?\n?")
_ASKED: Final = re.compile(r"/v1/(?:self|processes/([0-9]{1,10}))(/devices)?")
_OTHERS: Final = {"/v1/self/events": "events", "/v1/openapi.json": "openapi"}
#: RFC 9110, RFC 5789.
_METHOD: Final = re.compile(rb"(?:GET|HEAD|POST|PUT|DELETE|CONNECT|OPTIONS|TRACE|PATCH) ")
#: When clients of events connect again after the end of a stream.
_RETRY_MS: Final = 1000
_JSON: Final = b"application/json"
_METHODS: Final = (b"GET", b"HEAD")
_TOO_LARGE: Final = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
#: What is said of requests that h11 refuses, by its status.
_MALFORMED: Final = {
    _TOO_LARGE: (
        f"the request has more than {MOST_BYTES} bytes",
        "send fewer headers",
    ),
    HTTPStatus.NOT_IMPLEMENTED: ("a transfer encoding that is not known", "send no body"),
}
_NO_BODY: Final = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "a request has no body", "send none"
_NOT_HTTP: Final = "the request is malformed", "send HTTP/1.1 (RFC 9112), with a Host header"


class State(Enum):
    """Of one connection."""

    FIRST = "first"
    LINE = "line"
    HTTP = "http"
    EVENTS = "events"
    CLOSED = "closed"


class Request(NamedTuple):
    """What a client wants: "resources", "devices", "events" or "openapi"."""

    what: str
    #: The number of a process in the client's pid namespace; None: the client.
    pid: int | None = None


class Answer(NamedTuple):
    """A status of HTTP, and JSON with a newline behind it."""

    status: int
    body: bytes

    @classmethod
    def of(cls, document: Any) -> Answer:  # noqa: ANN401  JSON
        """Return the answer that has a document."""
        return cls(HTTPStatus.OK, json.dumps(document).encode() + b"\n")

    @classmethod
    def error(cls, status: int, message: str, hint: str) -> Answer:
        """Return an answer that says what is wrong and what to do."""
        return cls(status, json.dumps({"error": message, "hint": hint}).encode() + b"\n")


class HttpError(Exception):
    """A request that is not carried out; the connection is closed behind the answer."""

    def __init__(self, status: int, message: str, hint: str) -> None:
        super().__init__(message)
        self.answer = Answer.error(status, message, hint)


class Conversation:
    """One connection. `request_s`: seconds for a request; HTTP clients are told."""

    def __init__(self, request_s: float = 0.0) -> None:
        self.state = State.FIRST
        self._first = b""
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_BYTES)
        self._asked: Request | None = None  # its end may come later (a chunked body of no bytes)
        self._head = False
        self._stays = False
        self._keep_alive = b"timeout=%d" % request_s

    def receive(self, data: bytes) -> None:
        """Take bytes from the client; b"" is its end."""
        if self.state is State.FIRST:
            self._first += data
            line, newline, _ = self._first.partition(b"\n")
            if data and not newline and len(line) < _MOST_LINE:
                return
            if not self._first:
                self.state = State.CLOSED
                return
            if b" HTTP/" not in line and (newline or not _METHOD.match(line)):
                self.state = State.LINE
                return
            data, self.state = self._first, State.HTTP
        if self.state is State.HTTP:
            try:
                self._http.receive_data(data)
            except h11.RemoteProtocolError:  # more data behind its end
                self.state = State.CLOSED

    def request(self) -> Request | None:
        """Return the next request; None if more has to be received. Raise HttpError."""
        if self.state is State.LINE:
            match = _LINE.fullmatch(self._first)
            if match is None:
                raise HttpError(
                    HTTPStatus.BAD_REQUEST,
                    "this is neither a command nor HTTP",
                    "send self, pid NUMBER, devices or devices NUMBER, and a newline",
                )
            own, of_process, number = match.groups()
            what = "devices" if own or of_process else "resources"
            return Request(what, None if number is None else int(number))
        if self.state is not State.HTTP:
            return None
        try:
            return self._next()
        except h11.RemoteProtocolError as error:
            status = HTTPStatus(error.error_status_hint)
            raise HttpError(status, *_MALFORMED.get(status, _NOT_HTTP)) from None

    def _next(self) -> Request | None:
        while True:
            if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
                self._http.start_next_cycle()
                self._head = False  # the next request may be one that h11 refuses
            size = self._waiting
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                # h11 examines the size of incomplete ones alone.
                if size - self._waiting > MOST_BYTES:
                    raise HttpError(_TOO_LARGE, *_MALFORMED[_TOO_LARGE])
                self._asked = self._understood(event)
            elif isinstance(event, h11.Data):
                raise HttpError(*_NO_BODY)
            elif isinstance(event, h11.EndOfMessage):
                return self._asked
            elif event is h11.NEED_DATA:
                if self._http.they_are_waiting_for_100_continue:
                    raise HttpError(*_NO_BODY)
                return None
            else:  # the client has closed its end, or is not to go on
                self.state = State.CLOSED
                return None

    @property
    def _waiting(self) -> int:
        """Bytes that were received and not parsed yet."""
        return len(self._http.trailing_data[0])

    def _understood(self, event: h11.Request) -> Request:
        self._head = event.method == b"HEAD"
        self._stays = event.http_version == b"1.1" and not any(
            name == b"connection" and b"close" in value.lower() for name, value in event.headers
        )
        target = event.target.partition(b"?")[0].decode("latin-1")
        # http://localhost/v1/self, as a proxy is asked.
        target = re.sub(r"^http://[^/]*", "", target)
        request = _requested(target)
        if request is None:
            raise HttpError(
                HTTPStatus.NOT_FOUND, "there is no such resource", "GET /v1/openapi.json lists all"
            )
        if event.method not in _METHODS:
            raise HttpError(HTTPStatus.METHOD_NOT_ALLOWED, "nothing can be changed here", "use GET")
        return request

    def answer(self, answer: Answer, *, last: bool = False) -> bytes:
        """Return the bytes of an answer to the last request. `last`: none may follow."""
        if self.state is not State.HTTP:
            self.state = State.CLOSED
            return answer.body
        headers = [(b"content-type", _JSON), (b"content-length", b"%d" % len(answer.body))]
        if answer.status == HTTPStatus.METHOD_NOT_ALLOWED:
            headers.append((b"allow", b", ".join(_METHODS)))
        if last:
            headers.append((b"connection", b"close"))
        elif self._stays:
            headers.append((b"keep-alive", self._keep_alive))
        parts = [
            self._http.send(
                h11.Response(
                    status_code=answer.status,
                    headers=headers,
                    reason=HTTPStatus(answer.status).phrase.encode(),
                )
            ),
            b"" if self._head else self._http.send(h11.Data(data=answer.body)),
            self._http.send(h11.EndOfMessage()),
        ]
        if last or self._http.our_state is h11.MUST_CLOSE:
            self.state = State.CLOSED
        return b"".join([part for part in parts if part])

    def refuse(self, refused: HttpError) -> bytes:
        """Return the bytes of a refusal, the last ones of this connection."""
        return self.answer(refused.answer, last=True)

    def begin_events(self) -> bytes:
        """Return the head of a stream of server-sent events, without end."""
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        head = h11.Response(status_code=HTTPStatus.OK, headers=headers, reason=b"OK")
        data = self._http.send(head) or b""
        self.state = State.CLOSED if self._head else State.EVENTS
        return data if self._head else data + self._chunk(b"retry: %d\n\n" % _RETRY_MS)

    def event(self, name: str, body: bytes) -> bytes:
        """Return one event: a name, and JSON."""
        if self.state is not State.EVENTS:
            return b""  # HEAD has no body
        return self._chunk(b"event: %b\ndata: %b\n\n" % (name.encode(), body))

    def comment(self) -> bytes:
        """Return a comment, which clients ignore: one that takes nothing more shows by it."""
        return self._chunk(b":\n\n")

    def _chunk(self, data: bytes) -> bytes:
        return self._http.send(h11.Data(data=data)) or b""


def _requested(target: str) -> Request | None:
    other = _OTHERS.get(target)
    if other is not None:
        return Request(other)
    match = _ASKED.fullmatch(target)
    if match is None:
        return None
    number, devices = match.groups()
    what = "devices" if devices else "resources"
    return Request(what, None if number is None else int(number))
