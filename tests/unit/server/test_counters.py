"""The counters of a server as JSON, and the socket where they are asked for."""

from __future__ import annotations

import json
import os
import socket
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from pylxcfs.fuse import wire
from pylxcfs.guard import Guard
from pylxcfs.monitor import instance
from pylxcfs.server import counters
from pylxcfs.tree.contents import Counts
from pylxcfs.tree.nodes import FILES, SYSFS


def server(directory: Path, containers: int = 0) -> SimpleNamespace:
    known = [((4026532000 + i, 0), SimpleNamespace(renderings=i)) for i in range(containers)]
    own, caller = (
        SimpleNamespace(name=name, counts=[0] * wire.OPCODES, timeouts=0)
        for name in ("own", "caller")
    )
    return SimpleNamespace(
        guard=Guard(),
        settings=SimpleNamespace(runtime_dir=str(directory)),
        own_connection=own,
        caller_connection=caller,
        computation=SimpleNamespace(
            contents=SimpleNamespace(virtual=True, counts=Counts()),
            problems={"enable_cgroup": "a capability is missing"},
            registry=SimpleNamespace(containers=lambda: known),
        ),
    )


def test_what_was_counted_has_names() -> None:
    one = server(Path("/x"))
    one.own_connection.counts[wire.GETATTR] = 5
    one.own_connection.counts[63] = 1
    one.caller_connection.timeouts = 2
    counts = one.computation.contents.counts
    counts.renderings[0], counts.spent_ns[0] = 3, 700
    counts.renderings[SYSFS - FILES] = 4
    counts.unknown = 6
    one.guard.failures.update({"proc/meminfo": 1, "request 3": 1, "sweep": 9})
    one.guard.unavailable.update({"sys/devices/system/cpu/online": 8, "sweep": 9})
    found = counters.totals(one, 1.5)
    assert found["requests"] == {"own": {"getattr": 5, "opcode_63": 1}, "caller": {}}
    assert found["files"] == {"proc/meminfo": [3, 700], "sys/devices/system": [4, 0]}
    assert found["fallbacks"] == {"error": 2, "unavailable": 8, "timeout": 2, "unknown": 6}
    assert (found["pid"], found["began_s"], found["virtual"]) == (os.getpid(), 1.5, True)
    assert found["problems"] == {"enable_cgroup": "a capability is missing"}


@pytest.mark.parametrize("count", [0, 1, 50, 51, 3000])
def test_all_containers_are_in_the_answer(tmp_path: Path, count: int) -> None:
    text = b"".join(counters._pieces(server(tmp_path, count), 0.0))
    listed = json.loads(text)["containers"]
    assert listed == [[4026532000 + i, 0, i] for i in range(count)]


def test_a_client_that_does_not_read_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "_PATIENCE_S", 0.3)
    (tmp_path / "counters").write_text("of a server before")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(counters.publish, server(tmp_path, 20_000))
            with trio.fail_after(30):
                while not stat.S_ISSOCK(os.stat(tmp_path / "counters").st_mode):
                    await trio.sleep(0.001)
                deaf = socket.socket(socket.AF_UNIX)
                deaf.connect(f"{tmp_path}/counters")
                found = await trio.to_thread.run_sync(instance.ask, str(tmp_path))
            assert len(found["containers"]) == 20_000
            deaf.close()
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_bug_ends_neither_the_server_nor_the_socket(tmp_path: Path) -> None:
    one = server(tmp_path)
    del one.computation.registry

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(counters.publish, one)
            with trio.fail_after(30):
                for _ in range(2):
                    while not (tmp_path / "counters").exists():
                        await trio.sleep(0.001)
                    assert await trio.to_thread.run_sync(instance.ask, str(tmp_path)) is None
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert one.guard.failures["counters"] >= 1


def test_without_a_directory_there_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trio.run(counters.publish, server(tmp_path / "nothing"))
    assert "no counters" in caplog.text
