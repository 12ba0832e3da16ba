"""sysstat: counts the CPUs of a directory, and the time of those in stat."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from tests.kit.container import Container
from tests.kit.daemon import Daemon

ENVIRONMENT = {**os.environ, "LC_ALL": "C"}


def test_mpstat_has_a_line_for_the_visible_cpu(
    small: Container, program: Callable[[str], str]
) -> None:
    argv = [program("mpstat"), "-P", "ALL"]
    text = small.exec(argv, env=ENVIRONMENT).stdout.decode()
    rows = [line.split() for line in text.splitlines() if re.match(r"\S+ +(all|\d+) ", line)]
    assert [row[1] for row in rows] == ["all", str(min(os.sched_getaffinity(0)))], text
    # Shares since the container began, in per cent.
    for row in rows:
        assert abs(sum(float(share) for share in row[2:]) - 100) < 0.1, text


def test_the_heading_counts_directories(program: Callable[[str], str]) -> None:
    with (
        Daemon("--sys-cpu=hide") as hiding,
        Container(hiding.mountpoint, cpus=1) as container,
    ):
        text = container.exec([program("iostat"), "-c"], env=ENVIRONMENT).stdout.decode()
        assert "(1 CPU)" in text
