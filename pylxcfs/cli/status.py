"""`status`: an instance, the load of its server, and the containers on this host.

What is gathered is in the room monitor/.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from pylxcfs.cli.options import Config
from pylxcfs.monitor import bindings, containers, instance, parts
from pylxcfs.units import MIB

#: Exit codes of `status`. 3 is also what systemctl returns for a unit that does not run.
SERVING, STOPPED, NOT_SERVING = 0, 3, 6


def place_of(config: Config) -> instance.Place:
    """Return where the configuration has its instance."""
    return instance.Place(config.mountpoint, config.runtime_dir, config.pid_path)


def gather(config: Config) -> dict[str, Any]:
    """Return the state of the instance, its parts and of containers, as --json prints it.

    Parts and containers are null for a user who is not root: configuration, mounts and limits
    cannot be read.
    """
    place = place_of(config)
    state = instance.gather(place)
    state["parts"] = parts.gather(place, state)
    found = None
    if os.geteuid() == 0:
        found = containers.listing(bindings.devices(state["mounts"]))
        add_renderings(found, state["counters"])
    return state | {"containers": found}


def add_renderings(found: list[dict[str, Any]], counters: dict[str, Any] | None) -> None:
    """Add to each container how often the server has rendered a file for it."""
    sums: Counter[int] = Counter()
    for pidns, _, renderings in (counters or {}).get("containers", []):
        sums[pidns] += renderings
    for one in found:
        one["renderings"] = sums[one["pidns"]] if counters else None


def exit_code(state: dict[str, Any]) -> int:
    """Return the exit code that says the state."""
    if state["keeper"] is None:
        return STOPPED
    return SERVING if state["state"] == "serving" else NOT_SERVING


def render(state: dict[str, Any]) -> str:
    """Return the state as text for people."""
    lines = [f"{state['state']}: {state['text']}" if state["text"] else str(state["state"])]
    lines += [f"  {name + ':' if name else '':<20}{value}" for name, value in _rows(state)]
    found = state.get("containers")
    if found:
        lines += ["", *_table(found)]
    elif found is None and state.get("keeper"):
        lines += ["", "containers are shown to root only, as are optional parts"]
    return "\n".join(lines)


def _rows(state: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "mountpoint", state["mountpoint"]
    yield "runtime directory", state["runtime_dir"]
    for mount in state.get("mounts", []):
        alive = "not mounted"
        if mount["device"]:
            alive = {True: "alive", False: "not served", None: "mounted"}[mount["alive"]]
        device = f", device {mount['device']}" if mount["device"] else ""
        yield f"{mount['kind']} mount", f"{alive}{device}"
    for name, part in (state.get("parts") or {}).items():
        yield name, f"{part['place']}: {part['text']}" if part else "off"
        if part and part["hint"]:
            yield "", f"-> {part['hint']}"
    if isinstance(state["since"], int | float):
        yield "since", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(state["since"]))
    for name in ("keeper", "server"):
        if state[name]:
            yield name, _line(state[name], state.get("version"))
    counts = state.get("counts")
    if counts:
        yield "since its start", ", ".join(f"{count} {name}" for name, count in counts.items())
    counters = state.get("counters")
    if counters:
        yield from _load(counters)


def _load(counters: dict[str, Any]) -> Iterator[tuple[str, str]]:
    age_s = max(1.0, time.time() - counters["began_s"])
    renderings = sum(count for count, _ in counters["files"].values())
    spent_ns = sum(spent for _, spent in counters["files"].values())
    requests = {name: sum(counts.values()) for name, counts in counters["requests"].items()}
    text = ", ".join(f"{count / age_s:.1f} {name}" for name, count in requests.items())
    yield "requests a second", text
    mean = f", {spent_ns / renderings / 1000:.0f} us each" if renderings else ""
    yield "renderings", f"{renderings}{mean}"
    reasons = [f"{count} {reason}" for reason, count in counters["fallbacks"].items() if count]
    yield "host's file shown", ", ".join(reasons) or "never"
    if not counters["virtual"]:
        yield "virtualisation", "off until the next SIGUSR2: files show the host"


def _table(found: list[dict[str, Any]]) -> Iterator[str]:
    heads = ("CONTAINER", "RUNTIME", "PID", "MEMORY", "LIMIT", "CPUS", "FILES")
    rows = [heads]
    for one in found:
        cpus = one["cpus"]
        rows.append(
            (
                containers.printable(one["name"], 40),
                one["runtime"] or "-",
                str(one["pid"]),
                _mib(one["memory_usage_bytes"]),
                _mib(one["memory_limit_bytes"]),
                "-" if cpus is None else f"{cpus:g}",
                files_in_words(one["files"]),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    right = {2, 3, 4, 5}
    for row in rows:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def files_in_words(files: dict[str, str]) -> str:
    """Return how many files are bound to what, as in "11 own, 2 dead"."""
    counts = Counter(files.values())
    none = counts.pop(bindings.NONE, 0)
    words = [f"{counts[kind]} {kind}" for kind in bindings.KINDS if counts[kind]]
    return ", ".join(words) if words else f"none of {none}"


def _mib(size: int | None) -> str:
    return "-" if size is None else f"{size / MIB:.0f}M"


def _line(facts: dict[str, Any], installed: str | None) -> str:
    words = [
        f"pid {facts['pid']}",
        f"running for {duration(facts['age_s'])}",
        f"{facts['rss_bytes'] / MIB:.1f} MiB",
        f"{facts['cpu_s']:.2f} s CPU time",
    ]
    if facts["open_files"] is not None:
        words.append(f"{facts['open_files']} open files")
    version = facts.get("version")
    if version:
        old = "" if version == installed else f" (installed: {installed})"
        words.append(f"version {version}{old}")
    return ", ".join(words)


def duration(seconds: float) -> str:
    """Return a time in its two largest units."""
    minutes, seconds = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    shown = [f"{number} {unit}" for number, unit in parts if number]
    return " ".join(shown[:2]) or "0 s"
