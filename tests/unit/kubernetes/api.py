"""An API server for tests, on loopback with TLS and a service account."""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from pylxcfs.kubernetes import keeping, webhook
from pylxcfs.kubernetes.api import Api
from pylxcfs.kubernetes.certificates import issue
from pylxcfs.kubernetes.keeping import Context

NAMES = ["localhost", "127.0.0.1"]


class Server:
    """Answers every path by one function."""

    def __init__(
        self,
        directory: Path,
        answer: Callable[[Request], Awaitable[Response]],
        methods: Sequence[str] = ("GET",),
    ) -> None:
        self.served = issue(NAMES, keeping.utc_now())
        (directory / "ca.crt").write_bytes(self.served.authorities)
        (directory / "token").write_text("secret-token\n")
        (directory / "namespace").write_text("system")
        self.account = str(directory)
        self._app = Starlette(routes=[Route("/{path:path}", answer, methods=list(methods))])

    async def serve(self, *, task_status: trio.TaskStatus[Api]) -> None:
        """Serve until it is cancelled; start with a client."""
        context = Context()
        context.take(self.served)
        async with trio.open_nursery() as nursery:
            config = webhook._config("127.0.0.1:0", context)
            (bound,) = await nursery.start(functools.partial(webhook.serve_asgi, self._app, config))
            port = int(bound.rpartition(":")[2])
            task_status.started(Api("127.0.0.1", port, self.account))


def namespace(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}}


class NamespacesApi:
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


def run(work: Callable[[], Awaitable[None]]) -> None:
    """Run a test that has a deadline."""

    async def limited() -> None:
        with trio.fail_after(60):
            await work()

    trio.run(limited)
