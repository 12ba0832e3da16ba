"""Distribution of CPU time over the visible CPUs."""

from __future__ import annotations

import copy

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pylxcfs.formats import stat
from pylxcfs.units import NS_PER_S, NS_PER_TICK
from pylxcfs.views import cputime
from pylxcfs.views.cputime import CpuTimes, read, resume, total
from pylxcfs.views.model import CpuUsage, Ledger
from tests.unit.views.fakes import FakeContainer, FakeHost

S = 1_000_000_000
BORN = 100 * S


def v2(user: float, system: float = 0, nice: float = 0) -> CpuUsage:
    return CpuUsage(int(user * S), int(system * S), None, int(nice * S))


def v1(*cpus: tuple[float, float], total: tuple[float, float] | None = None) -> CpuUsage:
    per_cpu = {cpu: (int(user * S), int(system * S)) for cpu, (user, system) in enumerate(cpus)}
    if total is None:
        total = (sum(user for user, _ in cpus), sum(system for _, system in cpus))
    return CpuUsage(int(total[0] * S), int(total[1] * S), per_cpu)


def seconds(times):
    return [tuple(round(value / S, 6) for value in columns) for columns in times]


def advance(ledger, cpus, usage, started_ns, now_ns, asleep_ns=0):
    return cputime.advance(ledger, cpus, usage, started_ns, now_ns, now_ns - asleep_ns)


def at(ledger, age, cpus, usage, asleep=0):
    """Return the times at an age of seconds, of which the host was suspended for `asleep`."""
    return seconds(
        advance(ledger, cpus, usage, BORN, BORN + int(age * S), asleep_ns=int(asleep * S))
    )


def test_v2_spreads_the_total_evenly_and_the_rest_of_the_age_is_idle():
    assert at(Ledger(), 10, (0, 1), v2(4, 2)) == [(2, 0, 1, 7), (2, 0, 1, 7)]


def test_nice_is_a_part_of_user():
    assert at(Ledger(), 10, (0, 1), v2(4, 2, nice=1)) == [(1.5, 0.5, 1, 7), (1.5, 0.5, 1, 7)]


def test_v2_spreads_only_what_came_since():
    ledger = Ledger()
    at(ledger, 10, (0, 1), v2(4))
    assert at(ledger, 11, (0, 1), v2(5)) == [(2.5, 0, 0, 8.5), (2.5, 0, 0, 8.5)]


def test_v1_leaves_time_on_the_cpu_that_spent_it():
    usage = v1((1, 0), (5, 2), (0, 1))
    assert at(Ledger(), 10, (0, 1, 2), usage) == [(1, 0, 0, 9), (5, 0, 2, 3), (0, 0, 1, 9)]


def test_v1_matches_cpus_by_number():
    usage = v1((0, 0), (5, 0), (0, 0), (1, 0))
    assert at(Ledger(), 10, (1, 3), usage) == [(5, 0, 0, 5), (1, 0, 0, 9)]


def test_v1_spreads_time_of_cpus_that_are_not_seen():
    usage = v1((1, 0), (3, 0), (2, 0), (2, 2))
    assert at(Ledger(), 10, (0, 1), usage) == [(3, 0, 1, 6), (5, 0, 1, 4)]


def test_v1_moves_what_one_cpu_cannot_have_done():
    ledger = Ledger()
    at(ledger, 10, (0, 1), v1((0, 0), (0, 0), (0, 0)))
    # CPU 0 was busy, and so was CPU 2, which is not visible.
    assert at(ledger, 11, (0, 1), v1((1, 0), (0, 0), (1, 0))) == [
        (1.01, 0, 0, 10),
        (0.99, 0, 0, 10.01),
    ]


def test_v1_time_that_comes_in_steps_stays_on_its_cpu():
    ledger = Ledger()
    at(ledger, 0.001, (0, 1), v1((0, 0), (0, 0)))
    # CPU 0 is busy all the time, but the kernel adds 4 ms every 4 ms.
    for ms in range(2, 200):
        times = at(ledger, ms / 1000, (0, 1), v1((ms // 4 * 0.004, 0), (0, 0)))
    assert times[0] == (0.196, 0, 0, 0.003)
    assert times[1] == (0, 0, 0, 0.199)


def test_v1_steps_do_not_add_up():
    ledger = Ledger()
    for age in range(1, 100):
        times = at(ledger, age, (0, 1), v1((age, 0), (0, 0), (age / 2, 0)))
    assert times[0][0] == 99.01
    assert times[1][0] == 49.49


def test_v1_follows_the_exact_total_where_ticks_say_otherwise():
    usage = v1((4, 0), (4, 0), total=(4, 2))
    assert at(Ledger(), 10, (0, 1), usage) == [(2, 0, 1, 7), (2, 0, 1, 7)]


def test_v1_a_cpu_that_comes_into_view_does_not_bring_its_past():
    ledger = Ledger()
    at(ledger, 10, (0,), v1((2, 0), (4, 0)))
    assert at(ledger, 11, (0, 1), v1((2, 0), (5, 0))) == [(6.5, 0, 0, 4.5), (0.5, 0, 0, 0.5)]
    # From now on the ledger has the times of CPU 1.
    assert at(ledger, 12, (0, 1), v1((2, 0), (6, 0))) == [(6.5, 0, 0, 5.5), (1.5, 0, 0, 0.5)]


def test_v1_a_cpu_that_is_not_listed_did_nothing():
    assert at(Ledger(), 10, (0, 7), v1((2, 0))) == [(2, 0, 0, 8), (0, 0, 0, 10)]


def test_more_than_the_visible_cpus_could_do_is_shown_all_the_same():
    assert at(Ledger(), 2, (0,), v2(6)) == [(6, 0, 0, 0)]


def test_a_few_ticks_too_many_are_made_up_for():
    ledger = Ledger()
    at(ledger, 10, (0,), v2(10.004))
    assert at(ledger, 11, (0,), v2(10.5)) == [(10.5, 0, 0, 0.5)]


def test_a_shrinking_view_took_idle_time_and_used_time_to_other_cpus():
    ledger = Ledger()
    at(ledger, 100, (0, 1), v2(100))
    # The time of the CPU that left is its own.
    assert at(ledger, 101, (0,), v2(100)) == [(50, 0, 0, 51)]
    assert seconds([total(ledger)]) == [(100, 0, 0, 101)]


def test_idle_grew_by_seven_eighths_after_a_lowered_quota():
    ledger = Ledger()
    at(ledger, 100, (0, 1), v2(100))
    at(ledger, 101, (0,), v2(100.5))
    before = total(ledger)
    at(ledger, 109, (0,), v2(102))
    assert seconds([total(ledger)]) == [(102, 0, 0, before[3] / S + 6.5)]


def test_a_cpu_that_left_ran_what_the_others_cannot_have_run():
    ledger = Ledger()
    at(ledger, 10, (0, 1), v2(20))
    # Both were busy for 60 s, and the quota was lowered just now.
    assert at(ledger, 70, (0,), v2(130, 10)) == [(60, 0, 10, 0)]
    assert total(ledger)[:3] == (130 * S, 0, 10 * S)
    # Idle time goes on at once.
    at(ledger, 72, (0,), v2(130, 10))
    assert total(ledger)[3] == 2 * S


def test_idle_stood_still_for_a_minute_after_more_than_the_cpus_could_do():
    ledger = Ledger()
    at(ledger, 10, (0,), v2(70))
    assert at(ledger, 12, (0,), v2(70)) == [(70, 0, 0, 1)]


def test_a_cpu_that_returns_began_again():
    ledger = Ledger()
    at(ledger, 100, (0, 1), v2(100))
    at(ledger, 200, (0,), v2(120))
    assert at(ledger, 201, (0, 1), v2(121)) == [(70.5, 0, 0, 130.5), (50.5, 0, 0, 50.5)]


def test_a_cpu_that_enters_brought_the_idle_time_of_the_containers_whole_life():
    ledger = Ledger()
    at(ledger, 10, (0,), v2(4))
    assert at(ledger, 12, (0, 1), v2(6)) == [(5, 0, 0, 7), (1, 0, 0, 1)]


def test_another_counter_goes_on_from_what_was_shown():
    ledger = Ledger()
    at(ledger, 10, (0,), v2(4, 1))
    assert at(ledger, 11, (0,), v2(1)) == [(4, 0, 1, 6)]
    assert at(ledger, 12, (0,), v2(1.5, 0.25)) == [(4.5, 0, 1.25, 6.25)]


def test_a_reading_that_comes_late_counts_nothing_twice():
    ledger = Ledger()
    at(ledger, 10, (0,), v2(4))
    assert at(ledger, 9.9, (0,), v2(3.9)) == [(4, 0, 0, 6)]
    assert at(ledger, 11, (0,), v2(4.5)) == [(4.5, 0, 0, 6.5)]


def test_time_that_the_kernel_moves_from_user_to_system_counts_once():
    ledger = Ledger()
    at(ledger, 10, (0,), v2(4, 1))
    assert at(ledger, 11, (0,), v2(3, 3)) == [(4, 0, 2, 5)]
    assert at(ledger, 12, (0,), v2(4, 3)) == [(4, 0, 3, 5)]


def test_a_ledger_of_another_container_is_ignored():
    ledger = Ledger({0: (9, 9, 9, 9)}, last_ns=BORN - 1)
    assert at(ledger, 1, (0,), v2(0)) == [(0, 0, 0, 1)]


def test_a_ledger_of_another_boot_is_ignored():
    ledger = Ledger({0: (9, 9, 9, 9)}, last_ns=BORN + 1000 * S)
    assert at(ledger, 1, (0,), v2(0)) == [(0, 0, 0, 1)]


def test_a_container_that_is_not_born_yet_has_done_nothing():
    assert at(Ledger(), -1, (0,), v2(0)) == [(0, 0, 0, 0)]


def test_the_time_for_which_the_host_was_suspended_was_idle():
    ledger = Ledger()
    at(ledger, 10, (0, 1), v2(4))
    assert at(ledger, 3611, (0, 1), v2(5), asleep=3600) == [(2.5, 0, 0, 8.5), (2.5, 0, 0, 8.5)]
    assert at(ledger, 3612, (0, 1), v2(7), asleep=3600) == [(3.5, 0, 0, 8.5), (3.5, 0, 0, 8.5)]


def test_suspend_before_the_first_reading_is_not_known():
    ledger = Ledger()
    assert at(ledger, 3610, (0,), v2(4), asleep=9000) == [(4, 0, 0, 3606)]
    assert at(ledger, 3611, (0,), v2(4), asleep=9000) == [(4, 0, 0, 3607)]


def test_read_is_none_where_cpu_time_is_not_accounted():
    assert read(FakeContainer(), (0,), FakeHost(now=BORN)) is None


def test_read_uses_the_containers_ledger():
    container = FakeContainer(cpu_usage_=v2(1), started_ns_=BORN)
    assert read(container, (0,), FakeHost(now=BORN + 2 * S)) == CpuTimes(
        (S, 0, 0, S), [(S, 0, 0, S)]
    )
    assert container.ledger.last_ns == BORN + 2 * S


CPUS = st.sets(st.integers(0, 4), min_size=1).map(lambda cpus: tuple(sorted(cpus)))
GROWTH = st.integers(0, 3 * S)
STEP = st.tuples(st.integers(0, 2 * S), GROWTH, GROWTH, st.integers(0, S))


@st.composite
def histories(draw, views=CPUS, falls=True):
    """Draw (age, visible CPUs, usage) of one container over time."""
    accounted = draw(st.booleans())
    constant = draw(views)
    age = user = system = nice = 0
    per_cpu = dict.fromkeys(range(6), (0, 0))
    steps = []
    for elapsed, more_user, more_system, more_nice in draw(st.lists(STEP, min_size=1, max_size=8)):
        age += elapsed
        user += more_user
        system += more_system
        nice = min(user, nice + more_nice)
        if falls and draw(st.integers(0, 5)) == 0:
            user, system, nice = user // 2, system // 3, nice // 4
        busy = draw(st.integers(0, 5))
        was = per_cpu[busy]
        per_cpu[busy] = (was[0] + more_user, was[1] + more_system)
        usage = CpuUsage(user, system, None, nice)
        if accounted:
            usage = CpuUsage(user, system, dict(per_cpu))
        steps.append((age, draw(views) if draw(st.integers(0, 3)) == 0 else constant, usage))
    return steps


def used(ledger):
    """Return the sum over all CPUs ever seen."""
    return sum(total(ledger)[:3])


@given(histories())
def test_the_sum_grows_by_what_the_container_used(history):
    ledger = Ledger()
    expected = counted = 0
    for age, cpus, usage in history:
        advance(ledger, cpus, usage, BORN, BORN + age)
        now = usage.user_ns + usage.system_ns
        expected += max(0, now - counted)
        if not counted - S < now < counted:
            counted = now
        assert used(ledger) == expected


@given(histories(falls=False))
def test_the_sum_is_the_containers_total(history):
    ledger = Ledger()
    for age, cpus, usage in history:
        advance(ledger, cpus, usage, BORN, BORN + age)
        assert used(ledger) == usage.user_ns + usage.system_ns


@given(histories())
def test_no_counter_runs_backwards(history):
    ledger = Ledger()
    # Those of CPUs that are away, too, and the total.
    last: dict[object, tuple[int, ...]] = {}
    for age, cpus, usage in history:
        times = advance(ledger, cpus, usage, BORN, BORN + age)
        now = {**dict(zip(cpus, times, strict=True)), "cpu": total(ledger)}
        for cpu, columns in now.items():
            was = last.get(cpu, (0, 0, 0, 0))
            assert all(new >= old for new, old in zip(columns, was, strict=True))
        last |= now


@given(histories())
def test_no_cpu_gets_less_than_the_time_for_which_it_was_visible(history):
    ledger = Ledger()
    visible = dict.fromkeys(range(6), 0)
    last = 0
    for age, cpus, usage in history:
        times = advance(ledger, cpus, usage, BORN, BORN + age)
        for cpu, columns in zip(cpus, times, strict=True):
            visible[cpu] += age - last
            assert sum(columns) >= visible[cpu]
        last = age


@given(
    st.lists(
        st.tuples(st.integers(0, 5_000_000), st.integers(0, 10_000_000)), min_size=2, max_size=12
    ),
    st.integers(1, 11),
)
def test_a_column_stepped_back_after_a_kill(steps, saved):
    """The next server has an earlier reading, and makes one step of many."""
    cpus = (0, 1, 2)
    shown, kept = Ledger(), Ledger()
    age = user = 0
    for number, (elapsed, late) in enumerate(steps):
        if number == saved:
            kept = Ledger(dict(shown.cpu_ns), shown.last_ns, shown.awake_ns, inherited=True)
        age += elapsed
        # Two CPUs are busy; the kernel adds up to a tick late what has run.
        user = max(user, 2 * age - late)
        last = advance(shown, cpus, CpuUsage(user, 0, None), BORN, BORN + age)
    if not kept.last_ns:
        return
    times = advance(kept, cpus, CpuUsage(max(user, 2 * age), 0, None), BORN, BORN + age)
    for now, was in zip([*times, total(kept)], [*last, total(shown)], strict=True):
        assert all(new >= old for new, old in zip(now, was, strict=True))


@given(
    st.lists(
        st.tuples(st.integers(1000, 2 * S), st.floats(0, 1), st.floats(0, 1)),
        min_size=1,
        max_size=8,
    ),
    CPUS,
)
@example([(1000, 1.0, 0.3125)] * 3, (0, 1))  # no time left in which odd nanoseconds could be idle
def test_each_cpu_gets_the_time_that_passed(steps, cpus):
    """The differences that `top` computes add up to the time between readings."""
    ledger = Ledger()
    age = user = system = 0
    for elapsed, share, part in steps:
        age += elapsed
        spent = int(elapsed * len(cpus) * share)
        user += int(spent * part)
        system += spent - int(spent * part)
        usage = CpuUsage(user, system, None)
        for columns in advance(ledger, cpus, usage, BORN, BORN + age):
            # The odd nanoseconds of each column may meet on one CPU.
            assert age <= sum(columns) <= age + 2


@pytest.mark.parametrize("cpus", [(0,), (0, 1), tuple(range(64))])
def test_the_ledger_does_not_grow(cpus):
    ledger = Ledger()
    usage = CpuUsage(S, S, dict.fromkeys(range(128), (1, 1)))
    at(ledger, 1, cpus, usage)
    size = len(ledger.cpu_ns)
    for age in range(2, 10):
        at(ledger, age, cpus, usage)
    assert len(ledger.cpu_ns) == size


def shown(ledger, cpus):
    """Return the file as a reader is shown it, parsed: whole ticks."""
    lines = [stat.total_line(*[ns // NS_PER_TICK for ns in total(ledger)])]
    for cpu in cpus:
        lines.append(stat.cpu_line(cpu, *[ns // NS_PER_TICK for ns in ledger.cpu_ns[cpu]]))
    return stat.parse(b"".join(lines) + b"intr 0\n")


@given(data=st.data(), v1=st.booleans())
def test_a_kill_made_columns_step_back(data, v1):
    """However old the state is that the next server finds; there may be none."""
    tick = st.integers(0, 3 * NS_PER_TICK)
    started = now = 10**12
    ledger, saved = Ledger(), Ledger()
    times = {cpu: [0, 0] for cpu in range(3)}

    def step(ledger, cpus):
        nonlocal now
        now += data.draw(tick)
        for cpu in times:
            for which in (0, 1):
                times[cpu][which] += data.draw(tick) // 3
        users, systems = (sum(time[which] for time in times.values()) for which in (0, 1))
        per_cpu = {cpu: tuple(time) for cpu, time in times.items()} if v1 else None
        usage = CpuUsage(users, systems, per_cpu)
        advance(ledger, cpus, usage, started, now, 7)

    views = st.sampled_from([(0, 1), (0,), (1, 2), (0, 1, 2)])
    for _ in range(data.draw(st.integers(1, 6))):
        cpus = data.draw(views)
        step(ledger, cpus)
        if data.draw(st.booleans()):
            saved = copy.deepcopy(ledger)
    before = shown(ledger, cpus)
    for _ in range(2):  # two servers, one after the other
        resume(saved, before, started, 7)
        step(saved, cpus)
        after = shown(saved, cpus)
        assert all(new >= old for new, old in zip(after.total, before.total, strict=True))
        for cpu in cpus:
            pairs = zip(after.cpus[cpu], before.cpus[cpu], strict=True)
            assert all(new >= old for new, old in pairs)
        before = after


def test_what_was_shown_is_counted_once():
    """Not again as growth after the kill."""
    ledger = Ledger()
    cpus = (0, 1)
    usage = CpuUsage(5 * NS_PER_S, 3 * NS_PER_S, None)
    advance(ledger, cpus, usage, 0, 10 * NS_PER_S)
    after = Ledger()
    resume(after, shown(ledger, cpus), 0, 0)
    advance(after, cpus, usage, 0, 10 * NS_PER_S)
    for new, old in zip(total(after), total(ledger), strict=True):
        assert 0 <= new - old <= 4 * NS_PER_TICK
