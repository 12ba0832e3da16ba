"""From two readings of an instance to rows and rates, as `top` shows them.

Pure: readings are what instance.gather and containers.listing have returned.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final, NamedTuple

from pylxcfs.monitor import bindings, containers

#: The orders of rows, and the text for each.
ORDERS: Final = ("name", "memory", "cpu", "renderings")


class Reading(NamedTuple):
    """One look at everything."""

    at_s: float
    state: dict[str, Any]
    containers: list[dict[str, Any]]


class Host(NamedTuple):
    """What a container without limits may use."""

    memory_bytes: int
    cpus: int


class Row(NamedTuple):
    """One container. None: not known (yet)."""

    name: str
    memory_bytes: int | None
    memory_limit_bytes: int
    #: CPUs that it used between two readings.
    cpu: float | None
    cpus: float
    #: Texts a second that the server made for it.
    renderings: float | None
    files: str


class Rates(NamedTuple):
    """What the server did a second. None: not known (yet), or no server answers."""

    cpu: float | None
    requests: dict[str, float]
    renderings: float | None
    #: The part of the own mount's questions after which the kernel kept its pages. Reads within
    #: the time to live ask nothing, so nobody can count them.
    page_cache: float | None
    fallbacks: int | None


def rows(before: Reading | None, now: Reading, host: Host, order: str) -> list[Row]:
    """Return a row for each container."""
    earlier = {(one["pidns"], one["pid"]): one for one in before.containers} if before else {}
    seconds = now.at_s - before.at_s if before else 0.0
    made, made_before = _renderings(now), _renderings(before)
    found = []
    for one in now.containers:
        old = earlier.get((one["pidns"], one["pid"]))
        pidns = one["pidns"]
        renderings = None
        if made is not None and made_before is not None and seconds > 0:
            renderings = max(0, made[pidns] - made_before[pidns]) / seconds
        found.append(
            Row(
                containers.printable(one["name"], 80),
                one["memory_usage_bytes"],
                min(one["memory_limit_bytes"] or host.memory_bytes, host.memory_bytes),
                _rate(old, one, "cpu_s", seconds),
                one["cpus"] or host.cpus,
                renderings,
                _files(one["files"]),
            )
        )
    return sorted(found, key=lambda row: _key(row, order))


def rates(before: Reading | None, now: Reading) -> Rates:
    """Return what the server did between two readings."""
    counters = now.state["counters"]
    if counters is None:
        return Rates(None, {}, None, None, None)
    fallbacks = sum(counters["fallbacks"].values())
    old = before.state["counters"] if before else None
    if before is None or old is None or old["began_s"] != counters["began_s"]:
        return Rates(None, {}, None, None, fallbacks)
    seconds = max(now.at_s - before.at_s, 0.001)
    requests = {
        mount: (sum(counts.values()) - sum(old["requests"].get(mount, {}).values())) / seconds
        for mount, counts in counters["requests"].items()
    }
    asked, filled = (
        counters["requests"].get("own", {}).get(opcode, 0)
        - old["requests"].get("own", {}).get(opcode, 0)
        for opcode in ("getattr", "read")
    )
    return Rates(
        _rate(before.state["server"], now.state["server"], "cpu_s", seconds),
        requests,
        (_made(counters) - _made(old)) / seconds,
        max(0.0, 1 - filled / asked) if asked > 0 else None,
        fallbacks,
    )


def _made(counters: dict[str, Any]) -> int:
    return sum(count for count, _ in counters["files"].values())


def _renderings(reading: Reading | None) -> Counter[int] | None:
    counters = reading.state["counters"] if reading else None
    if counters is None:
        return None
    sums: Counter[int] = Counter()
    for pidns, _, count in counters["containers"]:
        sums[pidns] += count
    return sums


def _rate(
    old: dict[str, Any] | None, new: dict[str, Any] | None, name: str, seconds: float
) -> float | None:
    if not old or not new or seconds <= 0 or old[name] is None or new[name] is None:
        return None
    return max(0.0, float(new[name] - old[name]) / seconds)


def _files(files: dict[str, str]) -> str:
    counts = Counter(files.values())
    words = [
        f"{counts[kind]} {kind}"
        for kind in bindings.KINDS
        if kind != bindings.NONE and counts[kind]
    ]
    return ", ".join(words) or "none"


def _key(row: Row, order: str) -> tuple[float, str]:
    if order == "memory":
        return -(row.memory_bytes or 0) / max(1, row.memory_limit_bytes), row.name
    if order == "cpu":
        return -(row.cpu or 0.0), row.name
    if order == "renderings":
        return -(row.renderings or 0.0), row.name
    return 0.0, row.name
