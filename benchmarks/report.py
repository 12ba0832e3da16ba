"""The report: tables, JSON, a picture, and a description of the machine.

Pure but for `environment` and `save`.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import MEAN, Figures, Row, Verdict

RESULTS = Path(__file__).with_name("results")
SEATS = ("procfs", "pylxcfs", "pylxcfs-ttl0", "pylxcfs-64cpu", "lxcfs", "quiet", "noisy")
NAMES = {"lxcfs": "C LXCFS", "procfs": "procfs", "pylxcfs": "pylxcfs"}
#: Case, what README calls it, and the case that has procfs beside it.
README = (
    ("own-loop", "read without a pause", "own-loop"),
    ("own-100", "100 reads a second", "own-100"),
    ("kept-open", "kept open and read again", "kept-open"),
    ("caller-100", "100 reads a second, path resolved on the host", "own-100"),
    ("first-own", "first read of a new container", "first-own"),
)


def environment(lxcfs: bool = True) -> dict[str, str]:
    """Describe the machine and the versions that were compared."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    found = {
        "kernel": platform.release(),
        "CPU": f"{model}, {os.cpu_count()} CPUs",
        "cgroups": _cgroups(),
        "Python": platform.python_version(),
        "pyfuse3": _version("pyfuse3"),
        "pylxcfs": _commit(),
    }
    if lxcfs:
        found["C LXCFS"] = _output("lxcfs", "--version") or "unknown"
    return found


def _cgroups() -> str:
    text = Path("/proc/self/mountinfo").read_text()
    v1, v2 = " - cgroup " in text, " - cgroup2 " in text
    return "v1 and v2" if v1 and v2 else "v1" if v1 else "v2"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _commit() -> str:
    here = str(Path(__file__).parent)
    return _output("git", "-C", here, "describe", "--always", "--dirty", "--tags") or "unknown"


def _output(*argv: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=10)
    except OSError:
        return ""
    return (done.stdout or done.stderr).strip()


def number(value: float | None, unit: str = "") -> str:
    """Format a number with three significant digits."""
    if value is None or math.isnan(value):
        return "-"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}" + (f" {unit}" if unit and unit != "x" else "")


def microseconds(ns: float | None) -> str:
    return number(None if ns is None else ns / 1000)


def target(verdict: Verdict) -> str:
    """Format a target; nothing where there is none."""
    if math.isinf(verdict.limit):
        return ""
    sign = ">=" if verdict.at_least else "<="
    return f"{sign} {verdict.limit:g}" + (f" {verdict.unit}" if verdict.unit != "x" else "")


def outcome(verdict: Verdict) -> str:
    if math.isinf(verdict.limit):
        return ""
    return {True: "met", False: "NOT MET", None: "not measured"}[verdict.met]


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Format a Markdown table with aligned columns, numbers to the right."""
    rows = [list(header), *(list(line) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    rows.insert(1, ["-" * width for width in widths])
    text = []
    for row in rows:
        cells = [
            cell.ljust(width) if _is_text(cell) else cell.rjust(width)
            for cell, width in zip(row, widths, strict=True)
        ]
        text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text)


def _is_text(cell: str) -> bool:
    return not cell[:1].isdigit()


def figures_table(rows: Iterable[Row]) -> str:
    """Tabulate latencies and CPU time by case, file and server."""
    header = ("case", "file", "server", "mean us", "p50", "p99", "min", "CPU us", "reads/s")
    lines = []
    for row in rows:
        for seat in sorted(row.figures, key=SEATS.index):
            found = row.figures[seat]
            failed = f" ({found.failures} failed)" if found.failures else ""
            lines.append(
                (
                    row.case,
                    row.subject,
                    seat + failed,
                    *map(microseconds, (found.mean_ns, found.p50_ns, found.p99_ns, found.min_ns)),
                    microseconds(found.cpu_ns),
                    number(found.rate),
                )
            )
    return table(header, lines)


def verdicts_table(rows: Iterable[Row]) -> str:
    """Tabulate every target, one line each."""
    return table(
        ("case", "file", "what", "measured", "target", ""),
        (
            (
                row.case,
                row.subject,
                verdict.what,
                number(verdict.value, verdict.unit),
                target(verdict),
                outcome(verdict),
            )
            for row in rows
            for verdict in row.verdicts
        ),
    )


def summary_table(rows: Sequence[Row], titles: dict[str, str]) -> str:
    """Tabulate each target over all files: the mean and the worst."""
    lines = []
    groups: dict[tuple[str, str], list[tuple[Row, Verdict]]] = {}
    for row in rows:
        for verdict in row.verdicts:
            if not math.isinf(verdict.limit) and verdict.value is not None:
                groups.setdefault((row.case, verdict.what), []).append((row, verdict))
    for (case, what), found in groups.items():
        values = [verdict.value for _, verdict in found if verdict.value is not None]
        pick = min if found[0][1].at_least else max
        worst_row, worst = pick(found, key=lambda pair: pair[1].value or 0.0)
        met = sum(verdict.met is True for _, verdict in found)
        lines.append(
            (
                titles.get(case, case),
                what,
                number(sum(values) / len(values), worst.unit),
                f"{number(worst.value, worst.unit)} ({worst_row.subject.rpartition('/')[2]})"
                if len(found) > 1
                else "",
                target(worst),
                "met" if met == len(found) else f"NOT MET, {met} of {len(found)}",
            )
        )
    return table(("case", "what", "mean", "worst", "target", ""), lines)


def readme_table(rows: Sequence[Row]) -> str:
    """Tabulate README's rows: means over files in microseconds, and 8 readers."""
    means = {row.case: row.figures for row in rows if row.subject == MEAN}
    order = ("pylxcfs", "lxcfs", "procfs")
    lines = []
    for case, title, kernel_case in README:
        if case in means:
            found = {"procfs": means.get(kernel_case, {}).get("procfs"), **means[case]}
            times = (found[seat] for seat in order)
            lines.append((title, *(microseconds(one.mean_ns if one else None) for one in times)))
    for row in rows:
        if row.case == "eight":
            rates = [f"{row.figures[seat].rate:,.0f}" for seat in order]
            lines.append(("8 readers in 8 containers: reads a second", *rates))
    return table(("a read, in microseconds", *(NAMES[seat] for seat in order)), lines)


def document(
    rows: Sequence[Row], titles: dict[str, str], machine: dict[str, str], micro: str = ""
) -> str:
    """Return the report as Markdown. `micro`: the table of micro.py."""
    facts = "\n".join(f"- {name}: {value}" for name, value in machine.items())
    return (
        "# pylxcfs, C LXCFS and procfs side by side\n\n"
        f"{facts}\n\n"
        "A read is open, read to EOF, close, by a small C program in a container with limits\n"
        "three cgroups deep. Ratios are of one run on one machine; 1 is as fast as C LXCFS.\n\n"
        f"## Targets\n\n{summary_table(rows, titles)}\n\n"
        f"## In microseconds, mean of the files\n\n{readme_table(rows)}\n\n"
        f"## Every target, by file\n\n{verdicts_table(rows)}\n\n"
        f"## Every number\n\n{figures_table(row for row in rows if row.figures)}\n"
    ) + (f"\n## One rendering without FUSE, view by view\n\n{micro}\n" if micro else "")


def as_json(rows: Sequence[Row], machine: dict[str, str]) -> str:
    """Return all rows as JSON; a missing target is null."""

    def verdict(found: Verdict) -> dict[str, Any]:
        fields = asdict(found)
        if math.isinf(found.limit):
            fields["limit"] = None
        return {**fields, "met": None if math.isinf(found.limit) else found.met}

    found = [
        {
            "case": row.case,
            "subject": row.subject,
            "figures": {seat: asdict(figures) for seat, figures in row.figures.items()},
            "verdicts": [verdict(one) for one in row.verdicts],
        }
        for row in rows
    ]
    return json.dumps({"environment": machine, "rows": found}, indent=1) + "\n"


def bars(rows: Sequence[Row], case: str) -> tuple[list[str], dict[str, list[Figures]]]:
    """Return the files of a case, and the figures of each server."""
    chosen = [row for row in rows if row.case == case and row.subject != MEAN]
    files = [row.subject.rpartition("/")[2] for row in chosen]
    return files, {
        seat: [row.figures[seat] for row in chosen]
        for seat in NAMES
        if chosen and all(seat in row.figures for row in chosen)
    }


def draw(rows: Sequence[Row], case: str, path: Path) -> bool:
    """Draw the latency by file; False without matplotlib or rows."""
    try:
        from matplotlib import rc_context  # type: ignore[import-not-found]
        from matplotlib.figure import Figure  # type: ignore[import-not-found]
    except ImportError:
        return False
    files, seats = bars(rows, case)
    if not seats:
        return False
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    axes = figure.add_subplot()
    order = [seat for seat in ("procfs", "pylxcfs", "lxcfs") if seat in seats]
    width = 0.8 / len(order)
    colours = {"procfs": "#9aa0a6", "pylxcfs": "#1a73e8", "lxcfs": "#e8710a"}
    for index, seat in enumerate(order):
        places = [place + (index - (len(order) - 1) / 2) * width for place in range(len(files))]
        heights = [found.mean_ns / 1000 for found in seats[seat]]
        drawn = axes.bar(places, heights, width, label=NAMES[seat], color=colours[seat])
        axes.bar_label(drawn, fmt="%.0f", fontsize=7)
    axes.set_xticks(range(len(files)), files)
    axes.set_ylabel("µs a read (open, read to EOF, close)")
    axes.set_title("Mean latency of a read in a container, 100 reads/s")
    figure.legend(loc="outside lower center", ncols=len(order), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    # Text instead of outlines: a tenth of the size, and readable in a diff.
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(path)
    return True


def save(rows: Sequence[Row], text: str, machine: dict[str, str], name: str) -> list[Path]:
    """Write the report to benchmarks/results/ and return what was written."""
    RESULTS.mkdir(exist_ok=True)
    written = [RESULTS / f"{name}.md", RESULTS / f"{name}.json"]
    written[0].write_text(text)
    written[1].write_text(as_json(rows, machine))
    picture = RESULTS / f"{name}.svg"
    if draw(rows, "own-100", picture):
        written.append(picture)
    return written
