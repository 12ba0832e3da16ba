"""What the two calls cost: without a filter, with the agent, and beside a container that floods it.

    python -m benchmarks.syscalls [CALLS]

Needs root, runc, cc and BusyBox. Prints microseconds: mean and 99th percentile.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.clients.engines import remove_cgroups
from tests.kit.daemon import Daemon
from tests.syscalls.test_agent import Bundle

CALLS = 5000
THREADS = 64


def main() -> None:
    """Measure and print."""
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else CALLS
    with tempfile.TemporaryDirectory() as name, Daemon("--seccomp-agent") as daemon:
        top = Path(name)
        caller = top / "caller"
        source = Path(__file__).parents[1] / "tests/syscalls/caller.c"
        subprocess.run(
            ["cc", "-O1", "-static", "-pthread", "-o", str(caller), str(source)], check=True
        )

        def bundle(which: str, script: str, *, filtered: bool = True) -> Bundle:
            directory = top / which
            directory.mkdir()
            made = Bundle(directory, daemon, caller, script, "runc", name=which)
            if not filtered:
                config = json.loads((directory / "config.json").read_text())
                del config["linux"]["seccomp"]
                (directory / "config.json").write_text(json.dumps(config))
            return made

        script = f"caller time {calls}"
        show("no filter", bundle("none", script, filtered=False).run())
        show("agent", bundle("agent", script).run())
        flood = bundle("flood", f"caller burn {THREADS}")
        with subprocess.Popen(
            flood.command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
        ) as one:
            assert one.stdout is not None
            one.stdout.readline()
            show(f"agent, {THREADS} threads of another container", bundle("beside", script).run())
            subprocess.run([*flood.command[:-4], "kill", flood.cgroup, "KILL"], check=True)
        remove_cgroups(flood.cgroup)


def show(what: str, text: str) -> None:
    """Print one line for each call."""
    for line in text.splitlines():
        name, mean, p99 = line.split()
        print(f"{what + ':':<46} {name:<18} {int(mean) / 1e3:8.2f} {int(p99) / 1e3:8.2f} us")


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("only root may do this: run it with sudo")
    main()
