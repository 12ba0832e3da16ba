"""Namespaces, as an API server in memory lists them."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from pylxcfs.kubernetes.api import ApiError
from pylxcfs.kubernetes.namespaces import Namespaces
from tests.unit.kubernetes.api import NamespacesApi, namespace, run


def test_changes_are_followed(tmp_path: Path) -> None:
    async def work() -> None:
        fake = NamespacesApi(tmp_path)
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
        fake = NamespacesApi(tmp_path)
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
        fake = NamespacesApi(tmp_path, listed or ["x"])
        async with trio.open_nursery() as nursery:
            found = Namespaces(await nursery.start(fake.server.serve), "a")
            with pytest.raises(ApiError, match="not what was asked for"):
                await found.follow_once()
            nursery.cancel_scope.cancel()

    run(work)
