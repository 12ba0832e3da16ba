"""Whoever reads beside whom, and however: nobody gets a piece of another text."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import wait_until
from tests.kit.container import Container
from tests.kit.daemon import DEADLINE_S, ROOT, Daemon
from tests.kit.wellformed import check

GIB = 1 << 30
SECONDS = 2

#: The first of each has the file for itself before the others come.
CROWDS = [
    ["kept", "kept", "new_whole", "new_pieces", "new_slow"],
    ["pieces", "stat", "whole", "kept", "send"],
    ["pieces_by_offset", "first_kept", "send", "map"],
    ["pieces_and_fstat", "stat", "send", "send_kept", "whole"],
    ["first_kept", "pieces", "send_kept", "new_whole"],
]

#: A text that says how long it is, of one letter: another letter, and longer, each time.
_GROWING = (
    "import time; length = 400 + time.monotonic_ns() // 50_000_000 % 2000; "
    "return b'%d %s\\n' % (length, bytes([97 + length % 26]) * length)"
)


def read(
    container: Container, path: str, crowd: list[str], seconds: float = SECONDS
) -> list[tuple[str, bytes]]:
    """Return what each kind of reader got."""
    program = [sys.executable, "-m", "tests.mount.crowd", path, str(seconds), *crowd]
    done = container.exec(program, env={**os.environ, "PYTHONPATH": str(ROOT)})
    seen = [(kind, bytes.fromhex(text)) for kind, text in json.loads(done.stdout)]
    assert {kind for kind, _ in seen} == set(crowd) - {"stat", "map"}
    return seen


@pytest.fixture
def growing(sabotage: Any) -> Iterator[Daemon]:
    with Daemon(env=sabotage("proc/uptime", _GROWING)) as daemon:
        yield daemon


@pytest.mark.parametrize("crowd", CROWDS, ids=lambda crowd: f"{crowd[0]} first")
@pytest.mark.parametrize("path", ["/proc/uptime", "/proc/stat", "/proc/meminfo"])
def test_no_reader_of_a_crowd_gets_a_piece_of_another_text(
    daemon: Daemon, path: str, crowd: list[str]
) -> None:
    with Container(daemon.mountpoint, memory=GIB, cpus=1) as container:
        for kind, text in read(container, path, crowd):
            try:
                check(path, text)
            except AssertionError as error:
                error.add_note(f"read by {kind}")
                raise


@pytest.mark.parametrize("crowd", CROWDS, ids=lambda crowd: f"{crowd[0]} first")
def test_nor_of_a_text_that_grows_all_the_time(growing: Daemon, crowd: list[str]) -> None:
    with Container(growing.mountpoint, memory=GIB, cpus=1) as container:
        for kind, text in read(container, "/proc/uptime", crowd):
            length, letters = text.split()
            assert letters == letters[:1] * int(length), f"read by {kind}: {text!r}"


@pytest.mark.parametrize("path", ["/proc/uptime", "/proc/stat", "/proc/meminfo"])
def test_what_is_sent_first_of_all_ends_where_the_text_does(daemon: Daemon, path: str) -> None:
    """As BusyBox's cat sends a file that nobody has read: it never asks how long that is."""
    with Container(daemon.mountpoint, memory=GIB, cpus=1) as container:
        for _, text in read(container, path, ["send"], 0.1):
            check(path, text)
            assert not text.endswith(b"\n\n")


@pytest.mark.parametrize("options", [[], ["--cache-ttl=0"]], ids=["cached", "past the cache"])
def test_what_has_grown_since_it_was_sent_last_is_sent_whole(
    sabotage: Any, tmp_path: Path, options: list[str]
) -> None:
    """Nobody asks how long it is meanwhile, and the kernel believes the end that it was shown."""
    length = tmp_path / "length"
    length.write_text("100")
    body = f"return b'x' * int(open({str(length)!r}).read()) + b'\\n'"
    with (
        Daemon(*options, env=sabotage("proc/uptime", body)) as daemon,
        Container(daemon.mountpoint, memory=GIB, cpus=1) as container,
    ):

        def is_sent_whole(length: int) -> bool:
            ((_, text),) = read(container, "/proc/uptime", ["send"], 0)
            return text.endswith(b"\n") and text.rstrip() == b"x" * length

        assert is_sent_whole(100)
        length.write_text("300")
        wait_until(lambda: is_sent_whole(300), DEADLINE_S, what="all of the longer text")
