"""/proc/uptime of a container."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.formats import stat as format_stat
from pylxcfs.formats.uptime import parse
from pylxcfs.units import NS_PER_TICK
from pylxcfs.views import stat, uptime
from pylxcfs.views.model import CpuLimit, CpuUsage, Options
from tests.unit.views.fakes import FakeContainer, FakeHost

S = 1_000_000_000
STAT = b"cpu  0 0 0 0\ncpu0 0 0 0 0\nintr 0\n"


def host(**values):
    files = {"proc/uptime": b"1000.00 1500.00\n", "proc/stat": STAT}
    return FakeHost(files=files, now=1000 * S, **values)


def test_age_is_that_of_init_and_idle_what_its_cpus_had_left():
    for count, idle in ((2, b"170.00"), (4, b"370.00")):
        seen = FakeContainer(started_ns_=900 * S, cpu_usage_=CpuUsage(20 * S, 10 * S, None))
        the_host = host(cpus=tuple(range(count)))
        assert uptime.render(the_host, seen, Options()) == b"100.00 %b\n" % idle


def test_idle_ran_backwards_when_a_cpu_was_taken_away():
    the_host = host()
    seen = FakeContainer(started_ns_=900 * S, cpu_usage_=CpuUsage(20 * S, 10 * S, None))
    assert uptime.render(the_host, seen, Options()) == b"100.00 170.00\n"
    seen.cpu_limit_ = CpuLimit(None, 1.0)
    the_host.now += S
    assert uptime.render(the_host, seen, Options()) == b"101.00 171.00\n"


def test_a_suspended_host_was_idle():
    the_host = host()
    seen = FakeContainer(started_ns_=900 * S, cpu_usage_=CpuUsage(20 * S, 10 * S, None))
    assert uptime.render(the_host, seen, Options()) == b"100.00 170.00\n"
    the_host.now += 3600 * S
    the_host.asleep += 3600 * S
    assert uptime.render(the_host, seen, Options()) == b"3700.00 170.00\n"


def test_only_visible_cpus_can_be_idle():
    seen = FakeContainer(
        started_ns_=900 * S,
        cpu_usage_=CpuUsage(20 * S, 10 * S, None),
        cpu_limit_=CpuLimit(None, 1.0),
    )
    assert uptime.render(host(), seen, Options()) == b"100.00 70.00\n"


def test_idle_is_never_negative():
    seen = FakeContainer(started_ns_=990 * S, cpu_usage_=CpuUsage(500 * S, 0, None))
    assert uptime.render(host(), seen, Options()) == b"10.00 0.00\n"


def test_a_clock_that_is_behind_init_reads_zero():
    seen = FakeContainer(started_ns_=1001 * S, cpu_usage_=CpuUsage(0, 0, None))
    assert uptime.render(host(), seen, Options()) == b"0.00 0.00\n"


def test_without_accounting_idle_is_the_hosts_within_the_containers_age():
    assert (
        uptime.render(host(), FakeContainer(started_ns_=900 * S), Options()) == b"100.00 200.00\n"
    )
    assert uptime.render(host(), FakeContainer(started_ns_=100 * S), Options()) == (
        b"900.00 1500.00\n"
    )


@given(
    st.lists(
        st.tuples(st.integers(0, 5 * S), st.integers(0, 12 * S), st.booleans()),
        min_size=1,
        max_size=8,
    )
)
def test_idle_is_that_of_stat_and_never_runs_backwards(steps):
    the_host = host()
    seen = FakeContainer(started_ns_=the_host.now, cpu_usage_=CpuUsage(0, 0, None))
    last = parse(uptime.render(the_host, seen, Options()))
    for elapsed, spent, stat_first in steps:
        the_host.now += elapsed
        seen.cpu_usage_ = CpuUsage(seen.cpu_usage_.user_ns + spent, 0, None)
        if stat_first:
            stat.render(the_host, seen, Options())
        now = parse(uptime.render(the_host, seen, Options()))
        idle = format_stat.parse(stat.render(the_host, seen, Options())).total[3] * NS_PER_TICK
        assert now.up_ns >= last.up_ns
        assert now.idle_ns >= last.idle_ns
        assert idle == now.idle_ns
        last = now
