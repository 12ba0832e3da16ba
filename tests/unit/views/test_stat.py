"""/proc/stat of a container."""

from __future__ import annotations

import pytest

from pylxcfs.errors import FormatError, SourceError
from pylxcfs.formats import stat as format_stat
from pylxcfs.views import stat
from pylxcfs.views.model import CpuLimit, CpuNumbering, CpuUsage, Load, Options
from tests.unit.views.fakes import FakeContainer, FakeHost

S = 1_000_000_000
REST = b"""intr 193309 0 0 10 0 132
ctxt 324032
btime 1795666395
processes 7738
procs_running 3
procs_blocked 0
softirq 131487 0 14470 4
"""
HOST = (
    b"cpu  60 6 12 900 3 0 3 0 0 0\n"
    b"cpu0 10 1 2 300 1 0 1 0 0 0\n"
    b"cpu1 20 2 4 300 1 0 1 0 0 0\n"
    b"cpu2 30 3 6 300 1 0 1 0 0 0\n" + REST
)
PACKED = Options(cpu_numbering=CpuNumbering.PACKED)


def host(**values):
    return FakeHost(files={"proc/stat": HOST}, cpus=(0, 1, 2), now=110 * S, **values)


def container(**values):
    return FakeContainer(started_ns_=100 * S, **values)


def test_lines_are_the_containers_own_time():
    seen = container(cpu_usage_=CpuUsage(6 * S, 3 * S, None))
    assert stat.render(host(), seen, Options()) == (
        b"cpu  600 0 300 2100 0 0 0 0 0 0\n"
        b"cpu0 200 0 100 700 0 0 0 0 0 0\n"
        b"cpu1 200 0 100 700 0 0 0 0 0 0\n"
        b"cpu2 200 0 100 700 0 0 0 0 0 0\n" + REST
    )


def test_only_visible_cpus_have_lines_under_their_real_numbers():
    seen = container(
        cpu_usage_=CpuUsage(6 * S, 0, None), cpu_limit_=CpuLimit(frozenset({1, 2}), None)
    )
    parsed = format_stat.parse(stat.render(host(), seen, Options()))
    assert list(parsed.cpus) == [1, 2]


def test_packed_numbers():
    seen = container(
        cpu_usage_=CpuUsage(4 * S, 0, {0: (0, 0), 1: (3 * S, 0), 2: (S, 0)}),
        cpu_limit_=CpuLimit(frozenset({1, 2}), None),
    )
    parsed = format_stat.parse(stat.render(host(), seen, PACKED))
    assert {cpu: columns[0] for cpu, columns in parsed.cpus.items()} == {0: 300, 1: 100}


def test_the_cpu_line_is_the_sum_of_the_lines_below_rounded_once_as_the_kernels():
    # A third of this is not a whole number of ticks.
    seen = container(cpu_usage_=CpuUsage(1_000_000_007, 500_000_003, None, 333_333_331))
    parsed = format_stat.parse(stat.render(host(), seen, Options()))
    assert parsed.total[:4] == (66, 33, 50, 2849)
    for column, parts in zip(parsed.total, zip(*parsed.cpus.values(), strict=True), strict=True):
        assert sum(parts) <= column < sum(parts) + len(parts)


def test_the_cpu_line_ran_backwards_when_a_cpu_was_taken_away():
    the_host = host()
    seen = container(cpu_usage_=CpuUsage(2 * S, S, None), cpu_limit_=CpuLimit(None, 2.0))
    before = format_stat.parse(stat.render(the_host, seen, Options())).total
    assert before[:4] == (200, 0, 100, 1700)
    seen.cpu_limit_ = CpuLimit(None, 1.0)
    the_host.now += S
    after = format_stat.parse(stat.render(the_host, seen, Options()))
    assert after.total[:4] == (200, 0, 100, 1800)
    assert after.cpus[0][:4] == (100, 0, 50, 950)
    seen.cpu_limit_ = CpuLimit(None, 2.0)
    the_host.now += S
    again = format_stat.parse(stat.render(the_host, seen, Options()))
    assert again.total[:4] == (200, 0, 100, 2000)
    assert [again.cpus[cpu][3] for cpu in (0, 1)] == [1050, 950]


def test_a_busy_second_shows_as_a_second():
    the_host = host()
    seen = container(cpu_usage_=CpuUsage(S, 0, None), cpu_limit_=CpuLimit(None, 1.0))
    before = format_stat.parse(stat.render(the_host, seen, Options())).total
    the_host.now += 5 * S
    seen.cpu_usage_ = CpuUsage(5 * S, S, None)
    after = format_stat.parse(stat.render(the_host, seen, Options())).total
    assert [new - old for new, old in zip(after, before, strict=True)][:4] == [400, 0, 100, 0]


def test_without_accounting_the_hosts_lines_of_the_visible_cpus():
    seen = container(cpu_limit_=CpuLimit(frozenset({0, 2}), None))
    assert stat.render(host(), seen, Options()) == (
        b"cpu  40 4 8 600 2 0 2 0 0 0\n"
        b"cpu0 10 1 2 300 1 0 1 0 0 0\n"
        b"cpu2 30 3 6 300 1 0 1 0 0 0\n" + REST
    )
    packed = format_stat.parse(stat.render(host(), seen, PACKED))
    assert {cpu: columns[0] for cpu, columns in packed.cpus.items()} == {0: 10, 1: 30}


def test_procs_running_is_the_containers_where_it_is_sampled():
    usage = CpuUsage(0, 0, None)
    seen = container(cpu_usage_=usage, load_=Load((0.5, 0.5, 0.5), 7, 20, 99))
    assert b"\nprocs_running 7\n" in stat.render(host(), seen, Options())
    assert b"\nprocs_running 3\n" in stat.render(host(), seen, Options(loadavg=False))
    idle = container(cpu_usage_=usage, load_=Load((0, 0, 0), 0, 1, 99))
    assert b"\nprocs_running 1\n" in stat.render(host(), idle, Options())


def test_unreadable_or_nonsensical_host_is_for_the_caller():
    seen = container(cpu_usage_=CpuUsage(0, 0, None))
    with pytest.raises(SourceError):
        stat.render(FakeHost(), seen, Options())
    with pytest.raises(FormatError):
        stat.render(FakeHost(files={"proc/stat": b"nothing\n"}), seen, Options())


@pytest.mark.parametrize(
    ("offset_ns", "btime"),
    [
        (0, 1795666395),
        (86400 * S, 1795579995),
        (-1000 * S, 1795667395),
        (S // 2, 1795666394),
        (10**20, 0),
    ],
)
@pytest.mark.parametrize("usage", [None, CpuUsage(S, 0, None)])
def test_start_times_of_processes_in_a_time_namespace_were_wrong_by_its_offset(
    offset_ns, btime, usage
):
    """`ps` adds starttime, which the kernel moves by the offset, to btime, which was the host's."""
    text = stat.render(host(), container(clock_offset_ns_=offset_ns, cpu_usage_=usage), Options())
    assert b"\nbtime %d\nprocesses" % btime in text
