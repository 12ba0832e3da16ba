"""What it costs to ask for one's resources: by the library, over the socket, and from files.

    python -m benchmarks.resources [TIMES]

In a container with limits three cgroups deep. Needs root and cc; C LXCFS is measured where it is
installed. Prints microseconds: median and 99th percentile.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.servers import missing_peer, running
from tests.kit.cgroups import Cgroup
from tests.kit.container import Container
from tests.kit.daemon import Daemon

ROOT = Path(__file__).parents[1]
TIMES = 2000
COLD = 40
#: Connections of another container that ask without a pause.
MANY = 500
#: Nanoseconds of the first call after the import, and of later ones.
LIBRARY = """
import sys, time
from pylxcfs import resources
now = time.perf_counter_ns
began = now(); resources.of(); print(now() - began)
for _ in range(int(sys.argv[1])):
    began = now(); resources.of(); print(now() - began)
"""


def main() -> None:
    """Measure and print."""
    times = int(sys.argv[1]) if len(sys.argv) > 1 else TIMES
    with contextlib.ExitStack() as stack:
        top = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        program = top / "ask"
        source = Path(__file__).parent / "ask.c"
        subprocess.run(["cc", "-O2", "-static", "-o", str(program), str(source)], check=True)
        parent = stack.enter_context(Cgroup())
        parent.limits(memory=2 << 30, cpus=2)
        middle = stack.enter_context(Cgroup(parent=parent))
        middle.limits(memory=1 << 30, cpus=1.5)
        daemon = stack.enter_context(Daemon("--resources"))
        made = stack.enter_context(
            Container(daemon.mountpoint, parent=middle, memory=512 << 20, cpus=1)
        )

        def ask(*words: object) -> tuple[float, float]:
            out = made.exec([str(program), *map(str, words)], timeout=600).stdout
            median, p99 = map(int, out.split())
            return median / 1e3, p99 / 1e3

        socket = daemon.runtime_dir / "resources.sock"
        library(made, times)
        show("socket, line protocol", *ask("line", socket, times))
        show("socket, HTTP, kept connection", *ask("http", socket, times))
        with (
            Container(parent=middle, memory=512 << 20, cpus=1) as other,
            other.popen(
                [str(program), "burn", str(socket), str(MANY)], stdout=subprocess.PIPE
            ) as burning,
        ):
            assert burning.stdout is not None
            burning.stdout.readline()
            beside = f"beside {MANY} connections of another"
            show(f"socket, line protocol, {beside}", *ask("line", socket, times))
            burning.kill()
        show("file /proc/meminfo, pylxcfs", *ask("file", "/proc/meminfo", times))
        if not missing_peer():
            with running("lxcfs", top) as server:
                theirs = Container(server.mountpoint, parent=middle, memory=512 << 20, cpus=1)
                with theirs:
                    out = theirs.exec([str(program), "file", "/proc/meminfo", str(times)]).stdout
                    median, p99 = map(int, out.split())
                    show("file /proc/meminfo, C LXCFS", median / 1e3, p99 / 1e3)


def library(made: Container, times: int) -> None:
    """Measure the library, in the container and from outside of it."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    first, later = [], []
    for _ in range(COLD):
        out = made.exec([sys.executable, "-c", LIBRARY, str(times // COLD)], env=env).stdout
        cold, *warm = map(int, out.split())
        first.append(cold)
        later += warm
    show("library, first call of a process", *quantiles(first))
    show("library, later calls", *quantiles(later))


def quantiles(took: list[int]) -> tuple[float, float]:
    """Return median and 99th percentile of nanoseconds, in microseconds."""
    took = sorted(took)
    return took[len(took) // 2] / 1e3, took[len(took) * 99 // 100] / 1e3


def show(what: str, median: float, p99: float) -> None:
    """Print one line."""
    print(f"{what + ':':<65} {median:8.1f} {p99:8.1f} us", flush=True)


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("only root may do this: run it with sudo")
    main()
