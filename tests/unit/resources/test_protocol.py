"""Both protocols, in bytes."""

from __future__ import annotations

import json

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.resources.protocol import (
    MOST_BYTES,
    Answer,
    Conversation,
    HttpError,
    Request,
    State,
)

ANSWER = Answer.of({"a": 1})
GET = b"GET /v1/self HTTP/1.1\r\nHost: x\r\n\r\n"


def first(data: bytes, *, size: int | None = None) -> tuple[Conversation, Request | None]:
    talk = Conversation()
    for start in range(0, len(data), size or len(data)):
        talk.receive(data[start : start + (size or len(data))])
    return talk, talk.request()


def response(data: bytes, method: bytes = b"GET") -> tuple[int, dict[str, object], bool]:
    """Return what a client of HTTP reads: status, JSON, and whether the connection stays."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    head = client.next_event()
    assert isinstance(head, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert head.reason
    return head.status_code, json.loads(body or b"{}"), client.their_state is h11.DONE


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize(
    ("line", "request_"),
    [
        (b"self\n", Request("resources")),
        (b"self\r\n", Request("resources")),
        (b"pid 7\n", Request("resources", 7)),
        (b"pid 0\n", Request("resources", 0)),
        (b"devices\n", Request("devices")),
        (b"devices 7\r\n", Request("devices", 7)),
    ],
)
def test_lines(line, request_, size):
    talk, found = first(line, size=size)
    assert found == request_
    assert talk.answer(ANSWER) == b'{"a": 1}\n'
    assert talk.state is State.CLOSED


@pytest.mark.parametrize(
    "line",
    [
        *(b"\n", b"foo\n", b"pid\n", b"pid x\n", b"pid -1\n", b"pid 99999999999\n"),
        *(b"sel", b"devices x\n"),
    ],
)
def test_a_line_that_is_no_command_is_answered_and_closed(line):
    talk = Conversation()
    talk.receive(line)
    talk.receive(b"")
    with pytest.raises(HttpError) as refused:
        talk.request()
    data = talk.refuse(refused.value)
    hint = "send self, pid NUMBER, devices or devices NUMBER, and a newline"
    assert json.loads(data)["hint"] == hint
    assert data.endswith(b"\n")
    assert talk.state is State.CLOSED


@pytest.mark.parametrize("line", [b"self", b"self\r"])
def test_the_end_stands_for_the_newline(line):
    talk = Conversation()
    talk.receive(line)
    assert talk.request() is None
    talk.receive(b"")
    assert talk.request() == Request("resources")


def test_a_connection_without_a_request_is_closed():
    talk = Conversation()
    talk.receive(b"")
    assert talk.state is State.CLOSED
    assert talk.request() is None


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_http_goes_on_after_an_answer(size):
    talk, found = first(GET, size=size)
    assert found == Request("resources")
    assert response(talk.answer(ANSWER)) == (200, {"a": 1}, True)
    assert talk.request() is None
    talk.receive(b"GET /v1/processes/12?x=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert talk.request() == Request("resources", 12)
    assert response(talk.answer(ANSWER)) == (200, {"a": 1}, False)
    assert talk.state is State.CLOSED


def test_requests_that_come_together_are_answered_one_by_one():
    talk, found = first(GET + GET.replace(b"self", b"openapi.json"))
    assert found == Request("resources")
    talk.answer(ANSWER)
    assert talk.request() == Request("openapi")
    talk.answer(ANSWER)
    assert talk.request() is None
    talk.receive(GET.replace(b"self", b"self/devices"))
    assert talk.request() == Request("devices")


def test_http_1_0_and_proxies():
    talk, found = first(b"GET http://localhost/v1/self HTTP/1.0\r\n\r\n")
    assert found == Request("resources")
    talk.answer(ANSWER)
    assert talk.state is State.CLOSED


def test_head_has_no_body():
    talk, found = first(GET.replace(b"GET", b"HEAD"))
    assert found == Request("resources")
    data = talk.answer(ANSWER)
    assert data.endswith(b"\r\n\r\n")
    assert b"content-length: 9\r\n" in data
    assert response(data, b"HEAD") == (200, {}, True)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /v2/self HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /v1/processes/1x HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"DELETE /v1/self HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (GET[:-2] + b"Content-Length: 2\r\n\r\nab", 413),
        (GET[:-2] + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n", 413),
        (b"GET /v1/self HTTP/1.1\r\n\r\n", 400),
        (GET[:-2] + b"Content-Length: -1\r\n\r\n", 400),
        (GET[:-2] + b"Transfer-Encoding: gzip\r\n\r\n", 501),
        (GET[:-2] + b"X: " + b"y" * MOST_BYTES, 431),
        (b"GET /" + b"y" * 2 * MOST_BYTES + b" HTTP/1.1\r\n", 431),
        (b"GET /" + b"y" * 2 * MOST_BYTES, 431),
        (b"\x16\x03\x01 HTTP/\n\n\n", 400),
    ],
)
def test_what_is_refused(data, status):
    talk = Conversation()
    talk.receive(data)
    with pytest.raises(HttpError) as refused:
        talk.request()
    found = response(talk.refuse(refused.value))
    assert found[0] == status
    assert found[1]["error"]
    assert found[1]["hint"]
    assert not found[2]
    assert talk.state is State.CLOSED


@pytest.mark.parametrize("size", [1, len(GET) + 28, 1000])
def test_an_empty_body_in_chunks_may_come_later(size):
    data = GET[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    talk = Conversation()
    found = []
    for start in range(0, len(data), size):
        talk.receive(data[start : start + size])
        found.append(talk.request())
    assert [one for one in found if one is not None] == [Request("resources")]
    assert response(talk.answer(ANSWER))[0] == 200


@pytest.mark.parametrize("size", [1, 1000, MOST_BYTES, 3 * MOST_BYTES])
def test_a_request_has_at_most_8_kib(size):
    """Whatever the pieces are in which it is received."""

    def ask(length: int) -> tuple[Conversation, Request | None]:
        data = GET[:-2] + b"X: " + b"y" * (length - len(GET) - 5) + b"\r\n\r\n"
        assert len(data) == length
        talk = Conversation()
        found = None
        for start in range(0, length, size):
            talk.receive(data[start : start + size])
            found = talk.request()
        return talk, found

    talk, found = ask(MOST_BYTES)
    assert found == Request("resources")
    talk.answer(ANSWER)
    talk.receive(GET)  # each request counts alone
    assert talk.request() == found
    for length in (MOST_BYTES + 1, 12000):
        with pytest.raises(HttpError) as refused:
            ask(length)
        assert refused.value.answer.status == 431


def test_what_h11_says_is_not_told():
    for data, hint in (
        (GET[:-2] + b"Transfer-Encoding: gzip\r\n\r\n", "send no body"),
        (GET[:-2] + b"X: " + b"y" * MOST_BYTES, "send fewer headers"),
        (b"GET /v1/self HTTP/1.1\r\n\r\n", "Host"),
    ):
        talk = Conversation()
        talk.receive(data)
        with pytest.raises(HttpError) as refused:
            talk.request()
        assert hint in json.loads(refused.value.answer.body)["hint"]


def test_a_method_that_is_not_allowed_names_those_that_are():
    talk = Conversation()
    talk.receive(GET.replace(b"GET", b"PUT"))
    with pytest.raises(HttpError) as refused:
        talk.request()
    assert b"\r\nallow: GET, HEAD\r\n" in talk.refuse(refused.value)


def test_a_client_is_told_how_long_a_connection_stays():
    for version, more, told in (
        (b"1.1", b"", True),
        (b"1.1", b"Connection: Close\r\n", False),
        (b"1.0", b"", False),
    ):
        talk = Conversation(request_s=10.0)
        talk.receive(b"GET /v1/self HTTP/" + version + b"\r\nHost: x\r\n" + more + b"\r\n")
        assert talk.request() == Request("resources")
        assert (b"\r\nkeep-alive: timeout=10\r\n" in talk.answer(ANSWER)) is told


def test_what_is_refused_behind_a_head_request_has_a_body():
    talk, found = first(GET.replace(b"GET", b"HEAD") + b"GET /v1/self HTTP/1.1\r\n\r\n")
    assert found == Request("resources")
    talk.answer(ANSWER)
    with pytest.raises(HttpError) as refused:
        talk.request()
    status, document, _ = response(talk.refuse(refused.value))
    assert status == 400
    assert document["error"]


def test_events():
    talk, found = first(GET.replace(b"self", b"self/events"))
    assert found == Request("events")
    data = talk.begin_events() + talk.event("resources", b"{}") + talk.comment()
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    head = client.next_event()
    assert isinstance(head, h11.Response)
    assert (b"content-type", b"text/event-stream") in list(head.headers)
    text = b""
    while isinstance(event := client.next_event(), h11.Data):
        text += event.data
    assert text == b"retry: 1000\n\nevent: resources\ndata: {}\n\n:\n\n"
    assert talk.state is State.EVENTS


@given(st.lists(st.one_of(st.binary(max_size=64), st.just(GET), st.just(b"self\n")), max_size=20))
def test_no_bytes_break_it(pieces):
    talk = Conversation()
    for piece in [*pieces, b""]:
        talk.receive(piece)
        while talk.state is not State.CLOSED:
            try:
                request = talk.request()
            except HttpError as refused:
                talk.refuse(refused)
                break
            if request is None:
                break
            talk.answer(ANSWER)
        if talk.state is State.CLOSED:
            return
