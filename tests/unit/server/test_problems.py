"""What a server says of options that do not work on this host."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pylxcfs.errors import SourceError
from pylxcfs.server import server


@pytest.mark.parametrize(
    ("v1", "problems"),
    [({}, {"enable_devices": "bpf: not permitted"}), ({"devices": object()}, {})],
)
def test_devices_without_bpf(monkeypatch: pytest.MonkeyPatch, v1: Any, problems: dict) -> None:
    def refuse(directory: str) -> tuple[int, ...]:
        raise SourceError("bpf: not permitted")

    monkeypatch.setattr(server, "effective", refuse)
    found: dict[str, str] = {}
    server._check_devices(SimpleNamespace(v1=v1, v2=SimpleNamespace(mountpoint="/x")), found)
    assert found == problems
