"""The machine of load averages."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.sources.averages import EXP, FIXED_1, Averages

THREADS = st.integers(min_value=0, max_value=100_000)


def after(active, steps, start=(0, 0, 0)):
    return Averages(start).after(active, steps)


def test_the_constants_are_those_of_the_kernel():
    for exp, minutes in zip(EXP, (1, 5, 15), strict=True):
        assert exp == round(FIXED_1 * math.exp(-5 / (60 * minutes)))


def test_the_first_step_of_one_thread():
    assert after(1, 1).fixed == (164, 34, 11)
    assert after(1, 1).values() == (164 / 2048, 34 / 2048, 11 / 2048)


@given(THREADS)
def test_a_steady_load_is_reached_and_kept(active):
    assert after(active, 10_000).values() == (active, active, active)
    full = (active * FIXED_1,) * 3
    assert after(active, 1, full).fixed == full


@given(st.tuples(THREADS, THREADS, THREADS), st.integers(min_value=10_000, max_value=10**9))
def test_nothing_to_do_ends_at_zero(start, steps):
    assert after(0, steps, tuple(load * FIXED_1 for load in start)).fixed == (0, 0, 0)


@given(THREADS, st.tuples(THREADS, THREADS, THREADS), st.integers(0, 1000))
def test_averages_stay_between_where_they_were_and_what_is(active, start, steps):
    fixed = tuple(load * FIXED_1 for load in start)
    for new, old in zip(after(active, steps, fixed).fixed, fixed, strict=True):
        assert min(old, active * FIXED_1) <= new <= max(old, active * FIXED_1)


@given(THREADS, THREADS)
def test_the_shorter_average_is_the_quicker(active, idle_steps):
    averages = after(active, idle_steps % 100)
    one, five, fifteen = averages.fixed
    assert one >= five >= fifteen


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 10, 100, 1000])
@given(active=st.integers(0, 1000), start=st.integers(0, 1000))
def test_missed_steps_are_caught_up(active, start, steps):
    at_once = after(active, steps, (start * FIXED_1,) * 3)
    one_by_one = Averages((start * FIXED_1,) * 3)
    for _ in range(steps):
        one_by_one = one_by_one.after(active)
    # Both round, at different places: the decay by half a bit, each single step by one.
    for left, right in zip(at_once.values(), one_by_one.values(), strict=True):
        assert left == pytest.approx(right, abs=0.1 + 0.02 * max(active, start))
