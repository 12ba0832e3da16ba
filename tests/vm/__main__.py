"""Boot a machine by hand: python -m tests.vm [--cpus N] [--nodes N] [--memory 4G] COMMAND..."""

from __future__ import annotations

import argparse
import sys

from .machine import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__)
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--memory", default="4G", help="of each node")
    parser.add_argument("--kernel-args", default="")
    parser.add_argument("--timeout", type=float, default=600)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    result = run(
        options.command,
        options.cpus,
        options.nodes,
        options.memory,
        kernel_args=options.kernel_args,
        timeout=options.timeout,
        echo=lambda text: print(text, end="", flush=True),
    )
    print(f"exit code {result.exit_code} after {result.seconds:.0f} s", file=sys.stderr)
    if result.exit_code is None:
        print(result.console, file=sys.stderr)
        return 1
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main())
