"""Containers as the companion finds them: each is done once, or tried again where it failed."""

from __future__ import annotations

import errno
import subprocess
from collections import Counter
from collections.abc import Iterator

import psutil
import pytest

from pylxcfs.attach import watch
from pylxcfs.attach.containers import Container
from pylxcfs.attach.mounting import ATTACHED, Outcome
from tests.conftest import wait_until


@pytest.fixture
def pid() -> Iterator[int]:
    """The process of a container with the host's root."""
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "sleep", "1000"]
    with subprocess.Popen(command) as process:
        children = psutil.Process(process.pid).children
        yield wait_until(children, what="its process")[0].pid
        process.kill()


@pytest.mark.parametrize("fails", [False, True])
def test_a_container_that_fails_is_tried_again(pid: int, fails: bool) -> None:
    tries: Counter[int] = Counter()

    def attach(container: Container) -> list[Outcome]:
        tries[container.pid] += 1
        if fails:
            raise TimeoutError(errno.ETIMEDOUT, "it does not answer")
        return [Outcome("/proc/meminfo", ATTACHED, "")]

    watched = watch.Watch(None, [])  # type: ignore[arg-type]  it attaches nothing
    tried: dict[tuple[str, int], int] = {}

    def look() -> int:
        nonlocal tried
        tried = watched._do_all(attach, tried)
        return tries[pid]

    wait_until(look, what="the container to be found")
    for _ in range(10):
        look()
    assert tries[pid] == (watch._MOST_TRIES if fails else 1)
