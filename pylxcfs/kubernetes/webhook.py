"""The admission webhook as a server: HTTP, TLS, what is counted, and the end of it.

    POST /mutate          pods of namespaces with the label
    POST /mutate-asked    pods that ask by themselves
    POST /validate        their annotations
    GET  /healthz /readyz /metrics

What is done with a pod is in patch.py, with a body in review.py, certificates in keeping.py.
"""

from __future__ import annotations

import functools
import logging
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from ssl import SSLContext
from typing import Any, Final

import trio
from hypercorn.config import Config as Hypercorn
from hypercorn.trio import serve as serve_asgi
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pylxcfs.guard import Guard
from pylxcfs.kubernetes import keeping, review
from pylxcfs.kubernetes.keeping import Context, Source
from pylxcfs.kubernetes.patch import Settings
from pylxcfs.kubernetes.review import Answer, BadReview

_log = logging.getLogger(__name__)

#: Seconds until the next try while there is no certificate.
_AGAIN_S: Final = 1.0

Work = Callable[[bytes], Answer]


class Counts:
    """What was done, for /metrics."""

    def __init__(self) -> None:
        self.admissions: Counter[tuple[str, str, str]] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.timed: Counter[str] = Counter()

    @contextmanager
    def time(self, place: str) -> Iterator[None]:
        """Count the time that a body takes."""
        began = time.perf_counter()
        yield
        self.seconds[place] += time.perf_counter() - began
        self.timed[place] += 1

    def text(self, expires_s: float | None) -> str:
        """Return the text for Prometheus. No label has text of a pod."""
        lines = [
            "# HELP pylxcfs_admissions_total Answers to the API server.",
            "# TYPE pylxcfs_admissions_total counter",
        ]
        for (place, outcome, reason), count in sorted(self.admissions.items()):
            labels = f'webhook="{place}",outcome="{outcome}",reason="{reason}"'
            lines.append(f"pylxcfs_admissions_total{{{labels}}} {count}")
        lines += [
            "# HELP pylxcfs_admission_seconds Time to make an answer.",
            "# TYPE pylxcfs_admission_seconds summary",
        ]
        for place, count in sorted(self.timed.items()):
            labels = f'{{webhook="{place}"}}'
            lines.append(f"pylxcfs_admission_seconds_sum{labels} {self.seconds[place]:.6f}")
            lines.append(f"pylxcfs_admission_seconds_count{labels} {count}")
        if expires_s is not None:
            lines += [
                "# HELP pylxcfs_certificate_expiry_timestamp_seconds When the certificate expires.",
                "# TYPE pylxcfs_certificate_expiry_timestamp_seconds gauge",
                f"pylxcfs_certificate_expiry_timestamp_seconds {expires_s:.0f}",
            ]
        return "\n".join(lines) + "\n"


def application(settings: Settings, context: Context) -> Starlette:
    """Return the ASGI application."""
    counts, guard = Counts(), Guard()

    def admission(place: str, work: Work) -> Route:
        async def answer(request: Request) -> Response:
            try:
                body = await _body(request)
            except ClientDisconnect:
                return Response(status_code=400)
            except BadReview as error:
                counts.admissions[place, "error", "bad request"] += 1
                return PlainTextResponse(f"{error}\n", 400)
            with counts.time(place):
                done = guard.call(place, functools.partial(_attempt, work), _nothing, body)
            if done is None:
                counts.admissions[place, "error", "bug"] += 1
                return PlainTextResponse("internal error\n", 500)
            if isinstance(done, str):
                counts.admissions[place, "error", "bad request"] += 1
                return PlainTextResponse(f"{done}\n", 400)
            counts.admissions[place, done.outcome, done.reason] += 1
            return Response(done.body, media_type="application/json")

        return Route(f"/{place}", answer, methods=["POST"])

    async def healthy(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(_: Request) -> Response:
        if context.is_valid:
            return PlainTextResponse("ok\n")
        return PlainTextResponse("the certificate has expired\n", 503)

    async def metrics(_: Request) -> Response:
        expires = context.expires
        text = counts.text(None if expires is None else expires.timestamp())
        return Response(text, media_type="text/plain; version=0.0.4")

    mutate = functools.partial(review.mutate, settings=settings)
    return Starlette(
        routes=[
            admission("mutate", functools.partial(mutate, by_default=True)),
            admission("mutate-asked", functools.partial(mutate, by_default=False)),
            admission("validate", review.validate),
            Route("/healthz", healthy),
            Route("/readyz", ready),
            Route("/metrics", metrics),
        ]
    )


def _attempt(work: Work, body: bytes) -> Answer | str | None:
    try:
        return work(body)
    except BadReview as error:
        return str(error)


def _nothing(_: bytes) -> Answer | str | None:
    return None


async def _body(request: Request) -> bytes:
    """Return the body, read no further than is allowed. Raise BadReview, ClientDisconnect."""
    body = bytearray()
    async with aclosing(request.stream()) as parts:
        async for part in parts:
            body += part
            if len(body) > review.MOST_BODY:
                raise BadReview(f"the body has more than {review.MOST_BODY} bytes")
    return bytes(body)


class _Config(Hypercorn):
    """Hypercorn's, with a context of TLS that is changed while it serves."""

    context: SSLContext

    @property
    def ssl_enabled(self) -> bool:
        return True

    def create_ssl_context(self) -> SSLContext:
        return self.context


async def serve(
    settings: Settings,
    source: Source,
    listen: str,
    *,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until SIGTERM or SIGINT, or until this is cancelled."""
    context = Context()
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_signals, stop)
        while not await keeping.renew(context, source):
            with trio.move_on_after(_AGAIN_S):
                await stop.wait()
                nursery.cancel_scope.cancel()
        nursery.start_soon(_renewals, context, source)
        app: Any = application(settings, context)
        work = functools.partial(
            serve_asgi, app, _config(listen, context), shutdown_trigger=stop.wait
        )
        async with trio.open_nursery() as serving:
            bound = await serving.start(work)
            _log.info("answering the API server at %s", ", ".join(bound))
            task_status.started(bound)
        nursery.cancel_scope.cancel()


def _config(listen: str, context: Context) -> _Config:
    config = _Config()
    config.bind = [listen]
    config.context = context.tls
    config.accesslog = None
    config.errorlog = _log
    config.loglevel = "WARNING"
    config.include_server_header = False
    config.ssl_handshake_timeout = 10
    config.keep_alive_timeout = 60  # the API server uses a connection again
    return config


async def _renewals(context: Context, source: Source) -> None:
    while True:
        await trio.sleep(source.every_s)
        await keeping.renew(context, source)


async def _signals(stop: trio.Event) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
        async for _ in received:
            stop.set()
