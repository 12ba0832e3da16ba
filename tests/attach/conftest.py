"""Attach into real containers, with a real daemon."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require_fuse
from tests.kit.container import Container
from tests.kit.daemon import DEADLINE_S, ROOT, Daemon

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _can_mount() -> None:
    require_fuse()


@pytest.fixture
def make_container() -> Iterator[Callable[..., Container]]:
    """Start containers that end with the test; without a mountpoint nothing is bound."""
    with ExitStack() as stack:
        yield lambda *place, **options: stack.enter_context(Container(*place, **options))


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs a pylxcfs command on a daemon's directories."""

    def run(daemon: Daemon, name: str, *words: str, code: int | None = 0) -> Any:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pylxcfs", name),
                *("--runtime-dir", str(daemon.runtime_dir), *words),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert code in (None, done.returncode), done.stdout + done.stderr
        return done

    return run


def total(container: Container) -> int:
    """Return MemTotal in bytes, as a program in the container reads it."""
    return int(container.read("/proc/meminfo").split()[1]) << 10


def views_in(container: Container) -> dict[str, str]:
    """Return the paths that views of any instance cover, and what they are in their mount."""
    lines = Path(f"/proc/{container.pid}/mountinfo").read_text().splitlines()
    fields = [line.split() for line in lines if " fuse.pylxcfs " in line]
    places = [(words[4], words[3]) for words in fields if words[4].startswith(("/proc/", "/sys/"))]
    assert len(places) == len(dict(places)), f"stacked: {places}"
    return dict(places)
