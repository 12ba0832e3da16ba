"""What one server leaves to the next of each container: CPU counters shown, load averages.

As plain values for state.py, keyed by namespaces and the start of init, so that a namespace
number that was reused meanwhile inherits nothing. Reads nothing and writes nothing itself.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from pylxcfs.sources.averages import Averages, LoadState
from pylxcfs.sources.containers import ContainerSource
from pylxcfs.sources.identity import Identity

_log = logging.getLogger(__name__)


def export(containers: Iterable[tuple[Identity, ContainerSource]]) -> dict[str, Any]:
    """Return what is worth keeping of these containers."""
    kept = {}
    for identity, container in containers:
        ledger, load = container.ledger, container.load_state
        if not ledger.last_ns and load is None:
            continue
        kept[_key(identity, container)] = {
            "cpu_ns": [[cpu, *times] for cpu, times in list(ledger.cpu_ns.items())],
            "last_ns": ledger.last_ns,
            "load": None if load is None else [*load.averages.fixed, load.at_ns],
        }
    return kept


class Inheritance:
    """What an earlier server left, handed to each container once, when it is seen again."""

    def __init__(self, kept: object) -> None:
        self._kept: dict[str, Any] = kept if isinstance(kept, dict) else {}

    def hand_over(self, identity: Identity, container: ContainerSource) -> None:
        """Give a container what is its own. Nonsense is a warning and a fresh start."""
        left = self._kept.pop(_key(identity, container), None)
        if left is None:
            return
        try:
            ledger = {
                int(cpu): (int(user), int(nice), int(system), int(idle))
                for cpu, user, nice, system, idle in left["cpu_ns"]
            }
            last_ns = int(left["last_ns"])
            load = left["load"]
            state = None
            if load is not None:
                one, five, fifteen, at_ns = (int(number) for number in load)
                state = LoadState(Averages((one, five, fifteen)), at_ns)
        except (KeyError, TypeError, ValueError) as error:
            _log.warning("state of container %s is not usable: %r", identity, error)
            return
        container.ledger.cpu_ns, container.ledger.last_ns = ledger, last_ns
        if state is not None:
            container.load_state, container.load_wanted = state, True


def _key(identity: Identity, container: ContainerSource) -> str:
    return f"{identity.pidns}.{identity.cgroupns}.{container.started_ns()}"
