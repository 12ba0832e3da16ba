"""The values of each container that the next server takes over.

They are CPU counters, load averages, and the cgroups of a container whose init has moved
into a leaf: plain values for the state file, with a key of namespaces
and start times, so that a namespace number that was reused meanwhile takes over nothing. Reads and
writes no file.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pylxcfs.errors import FormatError
from pylxcfs.formats import stat
from pylxcfs.sources.averages import FIXED_1, STEP_NS, Averages, LoadState
from pylxcfs.sources.containers import ContainerSource
from pylxcfs.sources.identity import Identity
from pylxcfs.views import cputime

#: PID_MAX_LIMIT (include/linux/threads.h): no load average is higher.
_MOST_THREADS: Final = 1 << 22
#: More than a ledger has entries: CPUs are numbered below 8192, each with two keys, one below 0.
_MOST_CPUS: Final = 1 << 14
_TOO_LARGE: Final = 1 << 63
#: Containers whose values are kept although they were not read since the last server.
_MOST_LEFT: Final = 4096

_log = logging.getLogger(__name__)


def export(containers: Iterable[tuple[Identity, ContainerSource]]) -> dict[str, Any]:
    """Return the values of these containers, as `Inheritance` takes them."""
    kept = {}
    for identity, container in containers:
        ledger, load = container.ledger, container.load_state
        if not ledger.last_ns and load is None and not container.init_is_below:
            continue
        ledger.unsaved = False
        kept[_key(identity, container)] = {
            "cpu_ns": [[cpu, *times] for cpu, times in list(ledger.cpu_ns.items())],
            "last_ns": ledger.last_ns,
            "awake_ns": ledger.awake_ns,
            "load": None if load is None else [*load.averages.fixed, load.at_ns],
            "cgroups": dict(container.seen_at or {}) if container.init_is_below else {},
        }
    return kept


def is_urgent(containers: Iterable[tuple[Identity, ContainerSource]]) -> bool:
    """Return whether a kill now would lose what nothing else has: times of CPUs that have left."""
    return any(container.ledger.unsaved for _, container in containers)


class Inheritance:
    """Values of an earlier server, for each container once.

    `kept` is the result of `export`, by way of a file that may be broken; `now_ns` is
    CLOCK_BOOTTIME and `awake_ns` is CLOCK_MONOTONIC, which no time in it may exceed. `shown` are
    the texts of proc/stat that readers were shown last, with the host's CPU numbers, by container
    and epoch: a server that was killed did not save what it counted last.
    """

    def __init__(
        self,
        kept: object,
        now_ns: int,
        awake_ns: int,
        shown: Mapping[tuple[Identity, int], bytes] | None = None,
    ) -> None:
        self._kept: dict[str, Any] = kept if isinstance(kept, dict) else {}
        # A step may be made a little early.
        self._latest_ns = now_ns + STEP_NS
        self._asleep_ns = now_ns - awake_ns
        self._shown = dict(shown or {})

    def left(self) -> dict[str, Any]:
        """Return what no container has taken yet, newest first, for the server after this one.

        Containers that ended while no server ran never take theirs, so that it is bounded.
        """
        return dict(list(self._kept.items())[:_MOST_LEFT])

    def hand_over(self, identity: Identity, container: ContainerSource) -> None:
        """Give a container its values.

        Values out of range are a warning and a fresh start.
        """
        left = self._kept.pop(_key(identity, container), None)
        if left is not None:
            self._give_saved(identity, container, left)
        text = self._shown.pop((identity, container.epoch), None)
        if text is not None:
            # Of this mount, so of ours; a text of another version may have other lines.
            with contextlib.suppress(FormatError):
                shown = stat.parse(text)
                cputime.resume(container.ledger, shown, container.started_ns(), self._asleep_ns)

    def _give_saved(
        self, identity: Identity, container: ContainerSource, left: dict[str, Any]
    ) -> None:
        try:
            cpu_ns = self._cpu_ns(left["cpu_ns"])
            last_ns = _bounded(left["last_ns"], 0, self._latest_ns)
            # A server that counted suspend as idle time saved CLOCK_BOOTTIME alone.
            awake_ns = left.get("awake_ns", max(0, last_ns - self._asleep_ns))
            awake_ns = _bounded(awake_ns, 0, self._latest_ns - self._asleep_ns)
            load = None if left["load"] is None else self._load(left["load"])
            seen_at = _paths(left.get("cgroups", {}))
        except (KeyError, TypeError, ValueError) as error:
            _log.warning("starting without the state of container %s: %r", identity, error)
            return
        container.ledger.cpu_ns, container.ledger.last_ns = cpu_ns, last_ns
        container.ledger.awake_ns = awake_ns
        container.ledger.inherited = True
        container.seen_at = seen_at or None
        if load is not None:
            container.take_over_load(load)

    def _cpu_ns(self, rows: list[Any]) -> dict[int, tuple[int, int, int, int]]:
        cpu_ns = {}
        for cpu, *times in rows:
            user, nice, system, idle = (_bounded(time, 0, _TOO_LARGE) for time in times)
            cpu_ns[_bounded(cpu, -_MOST_CPUS, _MOST_CPUS)] = user, nice, system, idle
        return cpu_ns

    def _load(self, numbers: list[Any]) -> LoadState:
        *averages, at_ns = numbers
        one, five, fifteen = (_bounded(one, 0, _MOST_THREADS * FIXED_1) for one in averages)
        # The time of a server that saved CLOCK_BOOTTIME may be ahead.
        at_ns = min(_bounded(at_ns, 0, self._latest_ns), self._latest_ns - self._asleep_ns)
        return LoadState(Averages((one, five, fifteen)), at_ns)


def _paths(cgroups: object) -> dict[str, str]:
    """Return paths by controller. Raise TypeError."""
    if not isinstance(cgroups, dict) or not all(isinstance(path, str) for path in cgroups.values()):
        raise TypeError("not the paths of cgroups")
    return cgroups


def _bounded(number: object, least: int, most: int) -> int:
    """Return a whole number within bounds. Raise TypeError or ValueError."""
    if not isinstance(number, int):
        raise TypeError(f"not a whole number but {type(number).__name__}")
    if not least <= number <= most:
        raise ValueError(f"out of range: {number}")
    return number


def _key(identity: Identity, container: ContainerSource) -> str:
    return f"{identity.pidns}.{identity.cgroupns}.{container.started_ns()}"
