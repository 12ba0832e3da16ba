"""An API server for tests, on loopback with TLS and a service account."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
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


def run(work: Callable[[], Awaitable[None]]) -> None:
    """Run a test that has a deadline."""

    async def limited() -> None:
        with trio.fail_after(60):
            await work()

    trio.run(limited)
