"""Cost of a rendering without FUSE, by view and source.

`python -m benchmarks.micro`. This process reads a real container's cgroups, three deep, with the
real sources; FUSE, threads and caches above views are not part of it. Two views are
also rendered for 16 CPUs of a captured host (captured.py), with invented usage.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import captured
from benchmarks.containers import Fleet
from benchmarks.measure import percentile
from benchmarks.report import number, table
from pylxcfs.sources.cgroups import Hierarchies
from pylxcfs.sources.containers import ContainerSource
from pylxcfs.sources.procfs import HostFiles
from pylxcfs.units import NS_PER_S
from pylxcfs.views import VIEWS, syscpu
from pylxcfs.views.model import Container, CpuUsage, Host, Options
from tests.unit.views.fakes import FakeContainer

Render = Callable[[Host, Container, Options], object]


@dataclass(frozen=True)
class Cost:
    """Median nanoseconds of a rendering, and of its calls of sources."""

    path: str
    total_ns: float
    best_ns: float
    reading_ns: dict[str, float]


class Timed:
    """A proxy of a Host or a Container that times each method."""

    def __init__(self, real: object) -> None:
        self._real = real
        self.spent_ns: defaultdict[str, list[int]] = defaultdict(list)

    def __getattr__(self, name: str) -> object:
        found = getattr(self._real, name)
        if not callable(found):
            return found

        def call(*arguments: object) -> object:
            started = time.perf_counter_ns()
            try:
                return found(*arguments)
            finally:
                label = " ".join([name, *(str(a).rpartition("/")[2] for a in arguments)])
                self.spent_ns[label].append(time.perf_counter_ns() - started)

        return call


def renders() -> Iterator[tuple[str, Render]]:
    """Yield path and function: the rows of VIEWS, and the online CPUs."""
    for view in VIEWS:
        yield view.path, view.render
    online = "sys/devices/system/cpu/online"
    yield online, lambda host, container, options: syscpu.render(online, host, container, options)


def cost(path: str, render: Render, host: Host, container: Container, times: int) -> Cost | None:
    """Measure one view; None where this machine has no such file."""
    options = Options(vmstat=True)
    if not os.path.exists("/" + path):
        return None
    for _ in range(times // 10 + 1):
        render(host, container, options)
    samples = []
    for _ in range(times):
        started = time.perf_counter_ns()
        render(host, container, options)
        samples.append(time.perf_counter_ns() - started)
    samples.sort()
    timed_host, timed_container = Timed(host), Timed(container)
    for _ in range(times):
        render(timed_host, timed_container, options)  # type: ignore[arg-type]
    spent = {**timed_host.spent_ns, **timed_container.spent_ns}
    # A method that a view calls twice counts twice.
    each = {name: percentile(sorted(ns), 50) * len(ns) / times for name, ns in spent.items()}
    reading = dict(sorted(each.items(), key=lambda item: -item[1]))
    return Cost(path, percentile(samples, 50), float(samples[0]), reading)


def costs_of_views(times: int) -> list[Cost]:
    """Measure every view on a new container."""
    host = HostFiles()
    with (
        tempfile.TemporaryDirectory(prefix="pylxcfs-bench-") as directory,
        Fleet(Path(directory), {}) as fleet,
        fleet.containers(1, [], [], []) as (container,),
    ):
        source = ContainerSource(Hierarchies.discover(), init=container.pid)
        found = [cost(path, render, host, source, times) for path, render in renders()]
        source.release()
    host.close()
    return [one for one in found if one is not None] + costs_of_captured(times)


def costs_of_captured(times: int) -> list[Cost]:
    """Measure cpuinfo and stat of 16 of a captured host's 64 CPUs."""
    host = HostFiles(str(captured.HOST))
    usage = CpuUsage(700 * NS_PER_S, 300 * NS_PER_S, None)
    container = FakeContainer(cpu_limit_=captured.LIMIT, cpu_usage_=usage)
    found = []
    for path, render in renders():
        if path in captured.FILES:
            one = cost(path, render, host, container, times)
            if one is not None:
                found.append(replace(one, path=f"{path} of 16 CPUs"))
    host.close()
    return found


def costs_table(found: list[Cost]) -> str:
    """Tabulate costs; time outside of reading is the view's own."""
    lines = []
    for one in found:
        reading = sum(one.reading_ns.values())
        lines.append(
            (
                one.path,
                number(one.total_ns / 1000),
                number(one.best_ns / 1000),
                number(reading / 1000),
                ", ".join(f"{name} {number(ns / 1000)}" for name, ns in one.reading_ns.items()),
            )
        )
    return table(("view", "p50 us", "min", "reading", "of which"), lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.micro", description=__doc__)
    parser.add_argument("--times", type=int, default=2000, help="renderings of each view (2000)")
    print(costs_table(costs_of_views(parser.parse_args().times)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
