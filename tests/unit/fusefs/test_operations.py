"""Directories through pyfuse3: what is kept of those that are open."""

from __future__ import annotations

import logging
import stat
from types import SimpleNamespace
from typing import Any, cast

import pyfuse3
import pytest
import trio

from pylxcfs.fusefs import operations
from pylxcfs.fusefs.attributes import Attributes
from pylxcfs.fusefs.filesystem import Filesystem
from pylxcfs.fusefs.guard import Guard
from pylxcfs.fusefs.operations import Operations
from pylxcfs.fusefs.systree import Entry


class Names:
    """Directories that each hold one file, named by the directory."""

    def entries(self, node: int, pid: int) -> list[Entry]:
        return [Entry(b"in-%d" % node, node + 1000, stat.S_IFREG | 0o444)]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> tuple[Operations, list[bytes]]:
    names: list[bytes] = []

    def reply(token: object, name: bytes, attributes: object, position: int) -> bool:
        names.append(name)
        return True

    monkeypatch.setattr(pyfuse3, "readdir_reply", reply)
    fs = SimpleNamespace(
        names=Names(), attributes=lambda node, handle, pid: Attributes(0o100444, 1, 0, 0, 0)
    )
    return Operations(cast(Filesystem, fs), Guard()), names


def test_many_open_directories_are_all_listed_and_few_listings_kept(
    served: tuple[Operations, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ops, names = served
    monkeypatch.setattr(operations, "_MOST_LISTINGS", 2)
    ctx: Any = SimpleNamespace(pid=1)

    async def all_of_them() -> None:
        handles = [await ops.opendir(node, ctx) for node in range(5)]
        assert len(ops._listings) == 2
        for handle in handles:
            await ops.readdir(handle, 0, cast(pyfuse3.ReaddirToken, None))
        for handle in handles:
            await ops.releasedir(handle)

    trio.run(all_of_them)
    assert names == [b"in-%d" % node for node in range(5)]
    assert not ops._listings
    assert not ops._directories


def test_nobody_fills_the_log_with_stacks(
    served: tuple[Operations, list[bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        served[0].stacktrace()
    assert not caplog.records
