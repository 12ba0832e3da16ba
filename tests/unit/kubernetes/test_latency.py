"""What the plugin says to metrics, asked for as a scrape does."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from pathlib import Path

import pytest

from pylxcfs.kubernetes import latency, nri, ttrpc
from pylxcfs.kubernetes.latency import Latency
from pylxcfs.monitor import instance
from tests.conftest import wait_until
from tests.unit.kubernetes.test_nri import Runtime


class Node:
    def offer(self, view: object) -> None:
        return None

    def attach(self, container: object) -> None:
        raise AssertionError


def ask(directory: Path) -> dict[str, object] | None:
    return instance.ask(str(directory), latency.SOCKET)


def test_counts_are_those_of_the_moment(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100) / ("y" * 100)
    deep.mkdir(parents=True)
    assert ask(deep) is None
    counts = Latency()
    counts.publish(str(deep))
    assert ask(deep) == {"registered": False, "calls": {}, "slow": 0}
    counts.add("CreateContainer", 0.25)
    counts.add("CreateContainer", 0.0625)
    counts.add(None, 0)
    assert ask(deep) == {
        "registered": False,
        "calls": {"CreateContainer": [2, 0.3125], "other": [1, 0]},
        "slow": 1,
    }
    assert stat.S_IMODE(os.stat(deep / latency.SOCKET).st_mode) == 0o600
    later = Latency()  # a plugin that is started again
    later.registered = True
    later.publish(str(deep))
    assert ask(deep) == {"registered": True, "calls": {}, "slow": 0}


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Latency().publish(str(tmp_path / "no"))


def test_the_plugin_counts_its_answers() -> None:
    plugin = nri.Plugin(Node(), nri.Selection())

    def call(method: str, payload: bytes = b"") -> None:
        request = ttrpc.Request("nri.pkg.api.v1alpha1.Plugin", method, payload)
        plugin.answer(ttrpc.Packet(ttrpc.PLUGIN, 1, ttrpc.REQUEST, request.encode()))

    call("CreateContainer")
    call("StateChange", b"\xff")  # garbage is answered as well
    assert not plugin.latency.registered
    call("Configure")
    for number in range(3):
        call(f"Method{number}")
    document = plugin.latency.document()
    assert document["registered"]
    calls = {method: count for method, (count, _) in document["calls"].items()}
    assert calls == {"CreateContainer": 1, "StateChange": 1, "Configure": 1, "other": 3}


def test_a_runtime_that_ends_has_no_plugin() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "nri.sock")
        client = nri.Client(path, nri.Plugin(Node(), nri.Selection()))
        threading.Thread(target=client.run, daemon=True).start()
        runtime = Runtime(path)
        runtime.accept()
        assert not client.latency.registered
        runtime.call("Configure", b"")
        assert client.latency.registered
        os.unlink(path)
        runtime.close()
        wait_until(lambda: not client.latency.registered, what="the end of the connection")
