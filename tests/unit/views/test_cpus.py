"""The visible CPUs of a container, and their numbers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.views import cpus
from pylxcfs.views.model import CpuLimit, CpuNumbering, CpuView, Options

QUOTA = Options()
CPUSET = Options(cpu_view=CpuView.CPUSET)
PACKED = Options(cpu_numbering=CpuNumbering.PACKED)

CASES = [
    # online, cpuset, quota, visible
    ((0, 1, 2, 3), None, None, (0, 1, 2, 3)),
    ((0, 1, 2, 3), {1, 3}, None, (1, 3)),
    ((0, 1, 2, 3), None, 1.0, (0,)),
    ((0, 1, 2, 3), None, 0.01, (0,)),
    ((0, 1, 2, 3), None, 1.01, (0, 1)),
    ((0, 1, 2, 3), None, 1.0000001, (0,)),
    ((0, 1, 2, 3), None, 2.0000000000000004, (0, 1)),
    ((0, 1, 2, 3), None, 99.0, (0, 1, 2, 3)),
    ((0, 1, 2, 3), {2, 3}, 1.5, (2, 3)),
    ((0, 1, 2, 3), {2, 3}, 1.0, (2,)),
    ((0, 1, 2, 3), None, 0.0, (0,)),
    ((0, 1, 2, 3), None, -1.0, (0,)),
    # CPU 1 is offline, and a v1 cpuset may still name CPUs that are
    ((0, 2, 3), {0, 1, 2}, None, (0, 2)),
    ((0, 2, 3), {1}, None, (0, 2, 3)),
    ((0, 2, 3), set(), None, (0, 2, 3)),
]


@pytest.mark.parametrize(("online", "cpuset", "quota", "expected"), CASES)
def test_visible(online, cpuset, quota, expected):
    limit = CpuLimit(None if cpuset is None else frozenset(cpuset), quota)
    assert cpus.within(online, limit, QUOTA) == expected


def test_cpuset_view_ignores_the_quota():
    assert cpus.within((0, 1, 2), CpuLimit(frozenset({1, 2}), 0.5), CPUSET) == (1, 2)


def test_packed_numbers_start_at_zero():
    assert cpus.names((2, 5), PACKED) == {2: 0, 5: 1}
    assert cpus.names((2, 5), QUOTA) == {2: 2, 5: 5}
    assert cpus.shown((2, 5), PACKED) == (0, 1)


@given(
    st.sets(st.integers(0, 300), min_size=1, max_size=20),
    st.none() | st.frozensets(st.integers(0, 300), max_size=20),
    st.none() | st.floats(0, 400),
)
def test_visible_is_a_part_of_cpuset_and_online(online, cpuset, quota):
    order = tuple(sorted(online))
    seen = cpus.within(order, CpuLimit(cpuset, quota), QUOTA)
    assert seen
    assert list(seen) == sorted(seen)
    assert set(seen) <= online
    if cpuset is not None and cpuset & online:
        assert set(seen) <= cpuset
    if quota is not None:
        assert len(seen) <= max(1, math.ceil(quota))


@given(st.integers(1, 512), st.integers(1000, 1_000_000))
def test_a_whole_number_of_cpus_is_that_number(count, period):
    limit = CpuLimit(None, count * period / period)
    assert len(cpus.within(tuple(range(1024)), limit, QUOTA)) == count
