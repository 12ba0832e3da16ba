"""The namespaces that a selector chooses, as the API server lists them and tells of changes.

A thread of its own follows them, so that nobody waits for the API server: whoever asks gets what
was said last. Before the first answer there are none.
"""

from __future__ import annotations

import logging
import threading
import urllib.parse
from collections.abc import Callable
from typing import Any, Final

import trio

from pylxcfs.kubernetes.api import Api, ApiError

_log = logging.getLogger(__name__)

#: Seconds after which all are listed again; and until the next try after a failure.
_LISTED_S: Final = 300
_AGAIN_S: Final = 5.0


class Namespaces:
    """Names of namespaces whose labels a selector ("pylxcfs.io/view=all") chooses."""

    def __init__(self, api: Api, selector: str) -> None:
        self._api = api
        self._path = f"/api/v1/namespaces?labelSelector={urllib.parse.quote(selector)}"
        self._names: frozenset[str] = frozenset()
        self._on_more: Callable[[], None] = lambda: None

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def start(self, on_more: Callable[[], None]) -> None:
        """Follow in a thread, for ever. `on_more` is called there when one was added."""
        self._on_more = on_more
        threading.Thread(
            target=trio.run, args=(self._follow,), daemon=True, name="namespaces"
        ).start()

    async def _follow(self) -> None:
        said = ""
        while True:
            try:
                await self.follow_once()
                said = ""
            except ApiError as error:
                if str(error) != said:
                    _log.warning("namespaces: %s; trying again", error)
                    said = str(error)
                await trio.sleep(_AGAIN_S)

    async def follow_once(self) -> None:
        """List them, and take changes until the server ends the watch. Raise ApiError."""
        listed = await self._api.get(self._path)
        try:
            self._set(frozenset(map(_name, listed["items"])))
            version = listed["metadata"]["resourceVersion"]
            path = f"{self._path}&resourceVersion={version}"
            await self._api.watch(path, self._take, _LISTED_S)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ApiError(f"{self._path}: not what was asked for: {error!r:.200}") from error

    def _take(self, event: dict[str, Any]) -> None:
        if event["type"] == "ERROR":
            raise ApiError(f"{self._path}: {event['object'].get('message')}")
        name = _name(event["object"])
        self._set(self._names - {name} if event["type"] == "DELETED" else self._names | {name})

    def _set(self, names: frozenset[str]) -> None:
        before, self._names = self._names, names
        for what, changed in (("chosen", names - before), ("no longer chosen", before - names)):
            if changed:
                _log.info("namespaces %s by their labels: %s", what, ", ".join(sorted(changed)))
        if names - before:
            self._on_more()


def _name(namespace: dict[str, Any]) -> str:
    name: str = namespace["metadata"]["name"]
    return name
