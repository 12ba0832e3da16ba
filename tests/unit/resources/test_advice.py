"""One number, and its reason."""

from __future__ import annotations

import pytest

from pylxcfs import resources
from pylxcfs.resources import Cpu, Memory, Resources, Source, advice

GIB = 1 << 30
NONE = (None, None, None)


SOURCES = {name: Source(f"of {name}", 0) for name in ("cpu.quota", "cpu.cpuset")}


def made(cpu: Cpu | None = None, memory: Memory | None = None, decides: str = "") -> Resources:
    """Return resources; `decides`: the limit that decides which CPUs are visible."""
    own = resources.of()
    sources = {**SOURCES, "cpu.visible": SOURCES.get(decides, Source("/sys/..."))}
    return own._replace(cpu=cpu or own.cpu, memory=memory or own.memory, sources=sources)


@pytest.mark.parametrize(
    ("cpu", "decides", "number", "reason"),
    [
        (Cpu((0, 1), 1.5, (0, 1), (0, 1), *NONE), "cpu.quota", 2, "the quota is 1.5 CPUs"),
        (Cpu((0,), 0.1, None, None, *NONE), "cpu.quota", 1, "the quota is 0.1 CPUs"),
        (Cpu((0,), 1.0, None, None, *NONE), "cpu.quota", 1, "the quota is 1 CPU"),
        (Cpu((4, 5), None, (4, 5), (4, 5), *NONE), "cpu.cpuset", 2, "the cpuset has 2 CPUs"),
        (Cpu((4,), None, (4,), (4,), *NONE), "cpu.cpuset", 1, "the cpuset has 1 CPU"),
        (Cpu((0, 1, 2), None, None, (2,), *NONE), "", 1, "sched_getaffinity allows 1 of 3 CPUs"),
        # The quota shows the lowest CPUs; the process may spend it on others.
        (Cpu((0, 1), 2.0, None, (6, 7), *NONE), "cpu.quota", 2, "the quota is 2 CPUs"),
        (Cpu((0, 1), 8.0, None, (0, 1), *NONE), "", 2, "2 CPUs are online"),
        (Cpu((0,), None, None, (0,), *NONE), "", 1, "1 CPU is online"),
        # A quota that does not decide, as with --cpu-view cpuset.
        (Cpu((0, 1, 2), 1.0, None, (0, 1, 2), *NONE), "", 3, "3 CPUs are online"),
    ],
)
def test_threads(cpu, decides, number, reason):
    assert advice.threads(made(cpu=cpu, decides=decides)) == (number, reason)


@pytest.mark.parametrize(
    ("memory", "number", "reason"),
    [
        (Memory(4 * GIB, 4 * GIB, 0, 4 * GIB, 4 * GIB), 3 * GIB, "3/4 of the limit"),
        (Memory(None, 8 * GIB, 0, GIB, GIB), 2 * GIB, "1/4 of this machine with 8589934592"),
        # A limit above what the machine has is none.
        (Memory(64 * GIB, 8 * GIB, 0, GIB, GIB), 2 * GIB, "1/4 of"),
        (Memory(0, 0, 0, 0, 0), 0, "3/4 of the limit of 0"),
    ],
)
def test_heap(memory, number, reason):
    found = advice.heap_bytes(made(memory=memory))
    assert found.value == number
    assert reason in found.reason


def test_of_this_process():
    assert advice.threads().value == advice.threads(resources.of()).value >= 1
    assert advice.heap_bytes().value > 0
