"""Bind mounts that map ids: files of both mounts are read through them, in every way."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.conftest import require
from tests.kit import readers
from tests.kit.container import Container
from tests.kit.daemon import ROOT, Daemon
from tests.kit.readers import Starts
from tests.kit.wellformed import check

GIB = 1 << 30
TARGET = "/proc/meminfo"


class Mapped:
    """A place where a file of a mount is bound at TARGET, with mapped ids."""

    def __init__(self, where: Starts, source: Path) -> None:
        self._where = where
        self._source = source

    def popen(self, argv: Sequence[str], **kwargs: Any) -> subprocess.Popen[Any]:
        """Start a program there."""
        enter = ["unshare", "--mount", sys.executable, "-m", "tests.mount.idmapped"]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [*enter, str(self._source), TARGET, *argv]
        return self._where.popen(command, env=env, cwd=str(ROOT), **kwargs)


def refuses(place: Mapped) -> str:
    """Return why ids cannot be mapped here; empty where they can."""
    process = place.popen(["true"], stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (0, 77), said.decode()
    return said.decode() if process.returncode else ""


WAYS = (*readers.READS, readers.SEND, readers.MAP, readers.Way("pieces", 512))


@pytest.mark.parametrize("mount", ["own", "caller"])
def test_files_are_read_through_mapped_ids(
    daemon: Daemon, mount: Literal["own", "caller"], tmp_path: Path
) -> None:
    probe = tmp_path / "probe"
    probe.touch()
    with Container(daemon.mountpoint, memory=GIB) as container:
        where: Starts = container if mount == "caller" else readers.OnHost()
        source = daemon.mountpoint / "own" / container.key / "proc/meminfo"
        if mount == "caller":
            source = daemon.runtime_dir / "caller/proc/meminfo"
        place = Mapped(where, source)
        if said := refuses(place):
            plain = refuses(Mapped(where, probe))
            release = tuple(int(word) for word in os.uname().release.split(".")[:2])
            if plain or release < (6, 12):
                require("idmap", f"ids of FUSE mounts cannot be mapped here: {said}")
            pytest.fail(said)
        with readers.reading(*((place, TARGET, way) for way in WAYS)) as running:
            readers.last(running, 0.5)
            found = [reader.finish() for reader in running]
        owner = place.popen(["stat", "-c", "%u", TARGET], stdout=subprocess.PIPE)
        assert owner.communicate(timeout=60)[0] == b"100000\n"

    def judge(text: bytes) -> None:
        check(TARGET, text)
        assert text.startswith(b"MemTotal:        1048576 kB\n")

    for outcome in found:
        if mount == "caller" and outcome.way in (readers.SEND, readers.MAP):
            assert outcome.errors
            assert not outcome.texts
        else:
            assert not outcome.faults(judge)
