"""One number, and its reason."""

from __future__ import annotations

import pytest

from pylxcfs import resources
from pylxcfs.resources import Cpu, Memory, Resources, advice

GIB = 1 << 30


def made(cpu: Cpu | None = None, memory: Memory | None = None) -> Resources:
    own = resources.of()
    return own._replace(cpu=cpu or own.cpu, memory=memory or own.memory)


@pytest.mark.parametrize(
    ("cpu", "number", "reason"),
    [
        (Cpu((0, 1), 1.5, (0, 1, 2), (0, 1, 2), None, None, None), 2, "the quota is 1.5 CPUs"),
        (Cpu((0,), 0.1, None, None, None, None, None), 1, "the quota is 0.1 CPUs"),
        (Cpu((4, 5), None, (4, 5), (4, 5), None, None, None), 2, "the cpuset has 2 CPUs"),
        (Cpu((0, 1, 2), None, None, (2,), None, None, None), 1, "allows 1 of 3 CPUs"),
        # The quota shows the lowest CPUs; the process may spend it on others.
        (Cpu((0, 1), 2.0, None, (6, 7), None, None, None), 2, "the quota is 2 CPUs"),
        (Cpu((0, 1), 8.0, None, (0, 1), None, None, None), 2, "2 CPUs are online"),
    ],
)
def test_threads(cpu, number, reason):
    found = advice.threads(made(cpu=cpu))
    assert found.value == number
    assert reason in found.reason


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
