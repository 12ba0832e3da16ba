"""Values of each container that the next server takes over."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.server.handover import Inheritance, export, is_urgent
from pylxcfs.sources.averages import STEP_NS, Averages, LoadState
from pylxcfs.sources.cgroups import Hierarchies
from pylxcfs.sources.containers import ContainerSource
from pylxcfs.sources.identity import Identity
from pylxcfs.views.cputime import advance
from pylxcfs.views.model import CpuUsage

NOW = 10**15
WHO = Identity(4026532180, 0)
KEY = "4026532180.0.7"
#: One for all: each has an inotify instance, and what a test logs lives as long as the test.
HIERARCHIES = Hierarchies({}, None)


class Wanted(list):
    """The containers of which the load is to be sampled."""

    __call__ = list.append


@pytest.fixture
def wanted():
    return Wanted()


def container(wanted=None, started_ns=7):
    return ContainerSource(HIERARCHIES, paths={"": "/c"}, started_ns=started_ns, want_load=wanted)


def used():
    made = container()
    made.ledger.cpu_ns = {-1: (9, 0, 9, 0), 0: (5, 1, 4, 3), 63: (2**62, 0, 0, 0)}
    made.ledger.last_ns = NOW - 5
    made.ledger.awake_ns = NOW - 6
    made.load_state = LoadState(Averages((2048, 4096, 1)), NOW + STEP_NS // 4)
    return made


def by_way_of_a_file(kept):
    return json.loads(json.dumps(kept))


def test_a_container_gets_its_own_values_once(wanted):
    before, after = used(), container(wanted)
    inheritance = Inheritance(by_way_of_a_file(export([(WHO, before)])), NOW, NOW)
    inheritance.hand_over(WHO, after)
    assert after.ledger == before.ledger
    assert after.load_state == before.load_state
    # It goes on at once: no reader has to ask before the averages decay.
    assert wanted == [after]
    second = container(wanted)
    inheritance.hand_over(WHO, second)
    assert second.load_state is None
    assert not second.ledger.cpu_ns


def test_a_container_that_was_not_read_lost_its_values_at_the_next_save():
    unread = Identity(1, 0)
    first = export([(WHO, used()), (unread, used())])
    inheritance = Inheritance(by_way_of_a_file(first), NOW, NOW)
    read = container()
    inheritance.hand_over(WHO, read)
    assert by_way_of_a_file(export([(WHO, read)]) | inheritance.left()) == first


def test_values_that_no_container_takes_are_bounded():
    kept = {str(number): {} for number in range(5000)}
    assert list(Inheritance(kept, NOW, NOW).left()) == list(kept)[:4096]


def test_the_times_of_a_cpu_that_has_left_were_not_saved_for_a_minute():
    made = container()
    for cpus in (0, 1), (0,):
        assert not is_urgent([(WHO, made)])
        advance(made.ledger, cpus, CpuUsage(0, 0, None), 7, NOW, NOW)
    assert is_urgent([(WHO, made)])
    export([(WHO, made)])
    advance(made.ledger, (0,), CpuUsage(0, 0, None), 7, NOW, NOW)
    assert not is_urgent([(WHO, made)])


@pytest.mark.parametrize(
    ("identity", "started_ns"), [(WHO, 8), (Identity(WHO.pidns, 1), 7), (Identity(1, 0), 7)]
)
def test_another_container_gets_nothing(identity, started_ns):
    other = container(started_ns=started_ns)
    Inheritance(export([(WHO, used())]), NOW, NOW).hand_over(identity, other)
    assert not other.ledger.cpu_ns
    assert other.load_state is None


def test_times_of_a_server_that_counted_suspend_are_taken_over(wanted):
    """Such a server saved CLOCK_BOOTTIME alone, which suspend has put ahead of CLOCK_MONOTONIC."""
    asleep = NOW // 2
    fresh = container(wanted)
    Inheritance({KEY: GOOD}, NOW, NOW - asleep).hand_over(WHO, fresh)
    assert fresh.ledger.last_ns == NOW
    assert fresh.ledger.awake_ns == NOW - asleep
    assert fresh.load_state.at_ns == NOW - asleep + STEP_NS


def test_a_container_without_values_leaves_none():
    assert export([(WHO, container())]) == {}


@pytest.mark.parametrize("kept", [None, [], "x", 7, {"a": 1}])
def test_no_values_are_a_fresh_start(kept, caplog):
    fresh = container()
    Inheritance(kept, NOW, NOW).hand_over(WHO, fresh)
    assert fresh.load_state is None
    assert not caplog.records


GOOD = {"cpu_ns": [[0, 1, 2, 3, 4]], "last_ns": NOW, "load": [1, 2, 3, NOW]}


@pytest.mark.parametrize(
    "part",
    [
        {"cpu_ns": None},
        {"cpu_ns": 7},
        {"cpu_ns": [7]},
        {"cpu_ns": [[]]},
        {"cpu_ns": [[0, 1, 2, 3]]},
        {"cpu_ns": [[0, 1, 2, 3, -4]]},
        {"cpu_ns": [[0, 1, 2, 3, 10**30]]},
        {"cpu_ns": [[0, 1, 2, 3, 0.5]]},
        {"cpu_ns": [[10**9, 1, 2, 3, 4]]},
        {"cpu_ns": [["0", 1, 2, 3, 4]]},
        {"last_ns": -1},
        {"last_ns": 2 * NOW},
        {"last_ns": None},
        {"awake_ns": -1},
        {"awake_ns": 2 * NOW},
        {"awake_ns": None},
        {"load": []},
        {"load": 7},
        {"load": [1, 2, 3]},
        {"load": [1, 2, 3, 2 * NOW]},
        {"load": [1, 2, 3, -1]},
        {"load": [1, 2, -3, NOW]},
        {"load": [10**30, 2, 3, NOW]},
        {"load": [1, 2, 3, float("inf")]},
        {"load": [1, 2, 3, float("nan")]},
        {"load": [1, 2, 3, [[[]]]]},
        {"cgroups": 7},
        {"cgroups": {"": 7}},
    ],
    ids=str,
)
def test_values_out_of_range_are_a_warning_and_a_fresh_start(part, caplog, wanted):
    fresh = container(wanted)
    Inheritance({KEY: GOOD | part}, NOW, NOW).hand_over(WHO, fresh)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert not fresh.ledger.cpu_ns
    assert fresh.ledger.last_ns == 0
    assert fresh.load_state is None
    assert wanted == []


@pytest.mark.parametrize("left", ["x", [], 7, {}])
def test_anything_else_is_a_warning(left, caplog):
    Inheritance({KEY: left}, NOW, NOW).hand_over(WHO, container())
    assert [record.levelname for record in caplog.records] == ["WARNING"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)


@given(st.sampled_from(["cpu_ns", "last_ns", "awake_ns", "load"]), JSON)
def test_no_value_raises(name, value):
    Inheritance({KEY: GOOD | {name: value}}, NOW, NOW).hand_over(WHO, container())
