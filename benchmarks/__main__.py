"""`python -m benchmarks`: run the cases, print the table, write benchmarks/results/."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.cases import CASES, FILES, OURS, TTL0, Bench, Case
from benchmarks.containers import Fleet
from benchmarks.measure import Row
from benchmarks.micro import costs_of_views, costs_table
from benchmarks.report import document, environment, figures_table, save, verdicts_table
from benchmarks.servers import command, missing_peer, running


def main() -> int:
    arguments = _parser().parse_args()
    if os.geteuid() != 0:
        return _die("mounts, namespaces and cgroups need root", "run it with sudo")
    if missing_peer():
        return _die("C LXCFS is not installed", "apt-get install lxcfs")
    cases = [case for case in CASES if _chosen(case, arguments.only)]
    if not cases:
        return _die(f"no case {arguments.only}", "see --list")
    files = [file for file in FILES if not arguments.files or _named(file, arguments.files)]
    rows = _run(cases, files, quick=arguments.quick, stand_in=arguments.stand_in)
    whole = len(cases) == len(CASES) and len(files) == len(FILES) and not arguments.stand_in
    if not whole:
        print(figures_table(row for row in rows if row.figures), verdicts_table(rows), sep="\n\n")
        return _failed(rows)
    machine = environment()
    titles = {case.name: case.title for case in CASES}
    micro = costs_table(costs_of_views(times=100 if arguments.quick else 1000))
    text = document(rows, titles, machine, micro)
    print(text)
    for path in save(rows, text, machine, "quick" if arguments.quick else "latest"):
        print(f"wrote {path}", file=sys.stderr)
    return _failed(rows)


def _failed(rows: list[Row]) -> int:
    """Return 1 if reads failed, with a message: the run is invalid."""
    failures = sum(found.failures for row in rows for found in row.figures.values())
    if failures:
        print(f"benchmarks: {failures} reads failed; do not trust this run", file=sys.stderr)
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two minutes instead of eleven")
    parser.add_argument(
        "--only", metavar="CASE", action="append", help="cases with this prefix: own, first"
    )
    parser.add_argument(
        "--files", metavar="NAME", action="append", help="only files of this name: meminfo"
    )
    parser.add_argument(
        "--stand-in",
        action="store_true",
        help="run C LXCFS in place of pylxcfs: shows how far ratios are from 1 by chance",
    )
    parser.add_argument("--list", action=_List, nargs=0, help="list the cases and exit")
    return parser


class _List(argparse.Action):
    def __call__(self, *_: object) -> None:
        for case in CASES:
            print(f"{case.name:12} {case.title}")
        raise SystemExit(0)


def _die(message: str, hint: str) -> int:
    print(f"benchmarks: {message}\n  hint: {hint}", file=sys.stderr)
    return 2


def _chosen(case: Case, only: list[str] | None) -> bool:
    return not only or any(case.name.startswith(name) for name in only)


def _named(file: str, names: list[str]) -> bool:
    return file.rpartition("/")[2] in names


def _run(cases: list[Case], files: list[str], *, quick: bool, stand_in: bool) -> list[Row]:
    seats = sorted({seat for case in cases for seat in case.seats})
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pylxcfs-bench-")))
        servers = {}
        for seat in seats:
            place = directory / seat
            argv = None
            if stand_in and seat in (OURS, TTL0):
                argv = command("lxcfs", place / "mount", place / "run")
            servers[seat] = stack.enter_context(running(seat, directory, argv))
        mountpoints = {seat: server.mountpoint for seat, server in servers.items()}
        fleet = stack.enter_context(Fleet(directory, mountpoints))
        for case in cases:
            started = time.monotonic()
            rows += case.measure(Bench(fleet, servers, files, quick))
            took = time.monotonic() - started
            print(f"{case.name:12} {took:5.1f} s", file=sys.stderr, flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
