"""Namespaces, as an API server in memory lists them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from pylxcfs.kubernetes.api import ApiError
from pylxcfs.kubernetes.namespaces import Namespaces
from tests.unit.kubernetes.api import Server, run


def namespace(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}}


class Fake:
    """Lists "shop", and then sends what a test puts into `events`; None ends the watch."""

    def __init__(self, directory: Path, listed: object = None) -> None:
        self.server = Server(directory, self._answer)
        self.events, self._sent = trio.open_memory_channel[dict[str, Any] | None](9)
        self.asked: list[dict[str, str]] = []
        self._listed = listed or {
            "metadata": {"resourceVersion": "7"},
            "items": [namespace("shop")],
        }

    async def _answer(self, request: Request) -> Response:
        assert request.url.path == "/api/v1/namespaces"
        self.asked.append(dict(request.query_params))
        if "watch" in request.query_params:
            return StreamingResponse(self._stream(), media_type="application/json")
        return JSONResponse(self._listed)

    async def _stream(self) -> AsyncIterator[bytes]:
        while (event := await self._sent.receive()) is not None:
            text = json.dumps(event).encode() + b"\n"
            for part in (text[:9], text[9:]):
                yield part


def test_changes_are_followed(tmp_path: Path) -> None:
    async def work() -> None:
        fake = Fake(tmp_path)
        changes: trio.MemorySendChannel[bool]
        changes, changed = trio.open_memory_channel[bool](9)
        async with trio.open_nursery() as nursery:
            api = await nursery.start(fake.server.serve)
            found = Namespaces(api, "pylxcfs.io/view=all")
            found._on_more = lambda: changes.send_nowait(True)
            assert "shop" not in found
            nursery.start_soon(found.follow_once)
            await changed.receive()
            assert "shop" in found
            await fake.events.send({"type": "ADDED", "object": namespace("lab")})
            await changed.receive()
            assert "lab" in found
            await fake.events.send({"type": "DELETED", "object": namespace("shop")})
            await fake.events.send({"type": "MODIFIED", "object": namespace("new")})
            await changed.receive()
            assert [name in found for name in ("shop", "lab", "new")] == [False, True, True]
            assert fake.asked == [
                {"labelSelector": "pylxcfs.io/view=all"},
                {
                    "labelSelector": "pylxcfs.io/view=all",
                    "resourceVersion": "7",
                    "watch": "1",
                    "timeoutSeconds": "300",
                },
            ]
            nursery.cancel_scope.cancel()

    run(work)


def test_the_server_ends_the_watch(tmp_path: Path) -> None:
    async def work() -> None:
        fake = Fake(tmp_path)
        async with trio.open_nursery() as nursery:
            found = Namespaces(await nursery.start(fake.server.serve), "a")
            await fake.events.send(None)
            await found.follow_once()
            assert "shop" in found
            gone = {"message": "too old resource version", "code": 410}
            await fake.events.send({"type": "ERROR", "object": gone})
            with pytest.raises(ApiError, match="too old resource version"):
                await found.follow_once()
            assert "shop" in found
            nursery.cancel_scope.cancel()

    run(work)


@pytest.mark.parametrize("listed", [[], {"items": 5}, {"items": [{}]}, {"items": []}])
def test_an_answer_that_is_no_list_is_named(tmp_path: Path, listed: object) -> None:
    async def work() -> None:
        fake = Fake(tmp_path, listed or ["x"])
        async with trio.open_nursery() as nursery:
            found = Namespaces(await nursery.start(fake.server.serve), "a")
            with pytest.raises(ApiError, match="not what was asked for"):
                await found.follow_once()
            nursery.cancel_scope.cancel()

    run(work)
