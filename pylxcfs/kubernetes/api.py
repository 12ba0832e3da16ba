"""Requests to the API server, with the service account of the pod.

A connection for each: there are few. Knows HTTP and JSON, and nothing of what is asked for.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final

import h11
import trio

from pylxcfs.errors import HostError, PylxcfsError

_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
_PATIENCE_S: Final = 15.0
_MOST_ANSWER: Final = 8 << 20
_CHUNK: Final = 1 << 16

JSON_PATCH: Final = "application/json-patch+json"
_JSON: Final = "application/json"


class ApiError(PylxcfsError):
    """The API server cannot be asked, or says no: `status` is 0, or that of HTTP."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class Api:
    """The API server at an address. `account` has ca.crt, token and namespace."""

    def __init__(self, host: str, port: int, account: str = _ACCOUNT) -> None:
        self._host = host
        self._port = port
        self._account = account

    @classmethod
    def of_pod(cls, env: Mapping[str, str], account: str = _ACCOUNT) -> Api:
        """Return the server that this pod is told of. Raise HostError outside of a pod."""
        host, port = env.get("KUBERNETES_SERVICE_HOST"), env.get("KUBERNETES_SERVICE_PORT", "")
        if not host or not port.isdigit() or not os.path.exists(f"{account}/token"):
            raise HostError(
                "this is no pod with a service account",
                "give --tls-cert and --tls-key, or run it in a cluster",
            )
        return cls(host, int(port), account)

    @property
    def namespace(self) -> str:
        """Return the namespace of this pod. Raise ApiError."""
        return self._read("namespace").decode()

    async def get(self, path: str) -> Any:  # noqa: ANN401  JSON
        """Return an object. Raise ApiError."""
        return await self._ask("GET", path)

    async def put(self, path: str, content: object) -> Any:  # noqa: ANN401
        """Replace an object. Raise ApiError."""
        return await self._ask("PUT", path, content, _JSON)

    async def patch(self, path: str, operations: object) -> Any:  # noqa: ANN401
        """Change an object by JSON Patch. Raise ApiError."""
        return await self._ask("PATCH", path, operations, JSON_PATCH)

    async def watch(self, path: str, each: Callable[[Any], None], timeout_s: int) -> None:
        """Call `each` with every event until the server ends the watch. Raise ApiError.

        `path` has parameters already. The server ends it after the timeout.
        """
        rest = bytearray()

        def take(data: bytes) -> None:
            *lines, rest[:] = (rest + data).split(b"\n")
            for line in filter(None, lines):
                each(json.loads(line))

        path = f"{path}&watch=1&timeoutSeconds={timeout_s}"
        await self._ask("GET", path, take=take, patience_s=timeout_s + _PATIENCE_S)

    async def _ask(
        self,
        method: str,
        path: str,
        content: object = None,
        kind: str = "",
        *,
        take: Callable[[bytes], None] | None = None,
        patience_s: float = _PATIENCE_S,
    ) -> Any:  # noqa: ANN401
        body = b"" if content is None else json.dumps(content).encode()
        # Both files are replaced now and then.
        headers = [
            ("Host", self._host),
            ("Authorization", f"Bearer {self._read('token').decode()}"),
            ("Accept", _JSON),
            ("Connection", "close"),
            ("Content-Length", str(len(body))),
            *([("Content-Type", kind)] if kind else []),
        ]
        try:
            context = ssl.create_default_context(cafile=f"{self._account}/ca.crt")
            with trio.fail_after(patience_s):
                status, answer = await self._exchange(
                    context, h11.Request(method=method, target=path, headers=headers), body, take
                )
        except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
            raise ApiError(f"{method} {path}: {_why(error)}") from error
        except h11.ProtocolError as error:
            raise ApiError(f"{method} {path}: not HTTP: {error}") from error
        if take is not None and 200 <= status < 300:
            return None
        try:
            found = json.loads(answer)
        except (ValueError, RecursionError) as error:
            raise ApiError(f"{method} {path}: status {status}, not JSON", status) from error
        if not 200 <= status < 300:
            why = found.get("message") if isinstance(found, dict) else None
            raise ApiError(f"{method} {path}: {why or status}", status)
        return found

    async def _exchange(
        self,
        context: ssl.SSLContext,
        request: h11.Request,
        body: bytes,
        take: Callable[[bytes], None] | None,
    ) -> tuple[int, bytes]:
        """Return status and body; of an answer that is taken in parts, none of it."""
        stream = await trio.open_ssl_over_tcp_stream(
            self._host,
            self._port,
            https_compatible=True,
            ssl_context=context,
        )
        async with stream:
            http = h11.Connection(h11.CLIENT)
            sent = http.send(request) or b""
            if body:
                sent += http.send(h11.Data(data=body)) or b""
            sent += http.send(h11.EndOfMessage()) or b""
            await stream.send_all(sent)
            status, answer = 0, bytearray()
            while True:
                event = http.next_event()
                if event is h11.NEED_DATA:
                    http.receive_data(bytes(await stream.receive_some(_CHUNK)))
                elif isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data):
                    if take is not None and 200 <= status < 300:
                        take(bytes(event.data))
                        continue
                    answer += event.data
                    if len(answer) > _MOST_ANSWER:
                        raise OSError("the answer is too long")
                elif not isinstance(event, h11.InformationalResponse):
                    return status, bytes(answer)

    def _read(self, name: str) -> bytes:
        try:
            with open(f"{self._account}/{name}", "rb") as file:
                return file.read().strip()
        except OSError as error:
            raise ApiError(f"{self._account}/{name}: {error.strerror}") from error


def _why(error: Exception) -> str:
    # trio's error of a broken stream says nothing itself.
    return str(error.__cause__ or error) or type(error).__name__
