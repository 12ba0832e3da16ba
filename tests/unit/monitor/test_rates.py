"""Two readings become rows and rates."""

from __future__ import annotations

import pytest

from pylxcfs.monitor.rates import Host, Reading, rates, rows
from tests.unit.monitor.kit import MIB, container, counters, state

HOST = Host(1000 * MIB, 4)


def reading(at_s: float, cpu_s: float = 10.0, **values) -> Reading:
    return Reading(at_s, state(counters=counters(**values)), [container(cpu_s=cpu_s)])


def test_the_first_reading_has_no_rates() -> None:
    [row] = rows(None, reading(1.0), HOST, "name")
    assert (row.name, row.memory_bytes, row.memory_limit_bytes) == ("web", 50 * MIB, 100 * MIB)
    assert (row.cpu, row.cpus, row.renderings, row.files) == (None, 1.5, None, "1 own, 1 dead")
    assert rates(None, reading(1.0)).renderings is None
    assert rates(None, reading(1.0)).fallbacks == 4


def test_two_readings_have_rates() -> None:
    before = reading(1.0)
    now = reading(
        3.0,
        cpu_s=11.0,
        requests={"own": {"getattr": 120, "read": 30}, "caller": {"read": 17}},
        files={"proc/meminfo": [60, 0], "sys/devices/system": [2, 0]},
        containers=[[11, 0, 40], [11, 99, 5]],
    )
    [row] = rows(before, now, HOST, "name")
    assert (row.cpu, row.renderings) == (0.5, 5.0)
    done = rates(before, now)
    assert done.requests == {"own": 12.5, "caller": 5.0}
    assert (done.renderings, done.page_cache) == (10.0, 0.75)


def test_another_server_begins_anew() -> None:
    assert rates(reading(1.0), reading(2.0, began_s=1001.5)).renderings is None


def test_without_a_server_there_is_nothing_to_count() -> None:
    now = Reading(2.0, state(counters=None, server=None), [container()])
    assert rates(reading(1.0), now).fallbacks is None
    [row] = rows(reading(1.0), now, HOST, "name")
    assert row.renderings is None


def test_without_limits_the_host_is_the_limit() -> None:
    one = container(memory_limit_bytes=None, cpus=None)
    [row] = rows(None, Reading(1.0, state(), [one]), HOST, "name")
    assert (row.memory_limit_bytes, row.cpus) == (1000 * MIB, 4)


@pytest.mark.parametrize(("order", "first"), [("name", "a"), ("memory", "b"), ("cpu", "c")])
def test_rows_have_an_order(order: str, first: str) -> None:
    def listing(cpu_s: float) -> list:
        return [
            container("c", pid=3, memory_usage_bytes=1, cpu_s=cpu_s),
            container("b", pid=2, memory_usage_bytes=99 * MIB, cpu_s=1.0),
            container("a", pid=1, memory_usage_bytes=2, cpu_s=1.0),
        ]

    before, now = Reading(1.0, state(), listing(1.0)), Reading(2.0, state(), listing(2.0))
    assert rows(before, now, HOST, order)[0].name == first


def test_a_name_cannot_command_the_terminal() -> None:
    one = container("\x1b]0;x\x07evil\u202e")
    [row] = rows(None, Reading(1.0, state(), [one]), HOST, "name")
    assert row.name == "?]0;x?evil?"
