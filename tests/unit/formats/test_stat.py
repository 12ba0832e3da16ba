"""/proc/stat."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.errors import FormatError
from pylxcfs.formats import stat
from tests.unit.views.fakes import captured

REST = b"""intr 193309 0 0 10 0 132
ctxt 324032
btime 1795666395
processes 7738
procs_running 3
procs_blocked 0
softirq 131487 0 14470 4
"""

CASES = [
    (
        b"cpu  30 2 12 400 5 0 1 1 0 0\ncpu0 10 1 4 200 5 0 1 1 0 0\ncpu1 20 1 8 200 0 0 0 0 0 0\n",
        (30, 2, 12, 400, 5, 0, 1, 1, 0, 0),
        {0: (10, 1, 4, 200, 5, 0, 1, 1, 0, 0), 1: (20, 1, 8, 200, 0, 0, 0, 0, 0, 0)},
    ),
    # CPUs 0 to 6 are offline
    (b"cpu  1 2 3 4\ncpu7 1 2 3 4\n", (1, 2, 3, 4), {7: (1, 2, 3, 4)}),
    # a column of a later kernel
    (
        b"cpu  1 2 3 4 5 6 7 8 9 10 11\ncpu0 1 2 3 4 5 6 7 8 9 10 11\n",
        (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11),
        {0: (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)},
    ),
]


@pytest.mark.parametrize(("lines", "total", "cpus"), CASES)
def test_parse_and_render(lines, total, cpus):
    parsed = stat.parse(lines + REST)
    assert parsed == stat.Stat(total, cpus, REST)
    assert stat.render(parsed) == lines + REST


def test_lines_behind_the_cpus_may_change_their_order():
    text = b"cpu  1 2 3 4\ncpu0 1 2 3 4\nfuture 1\nctxt 1\n"
    parsed = stat.parse(text)
    assert parsed.rest == b"future 1\nctxt 1\n"
    assert stat.render(parsed) == text


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"cpu",
        b"intr 1\n",
        b"cpu  1 2\nintr 1\n",
        b"cpu  1 2 3 x\nintr 1\n",
        b"cpu  1 2 3 4\ncpux 1 2 3 4\nintr 1\n",
        b"cpu  1 2 3 4\nctxt 1\nintr 1\n",
        b"cpu1 1 2 3 4\nintr 1\n",
    ],
)
def test_nonsense_is_a_format_error(text):
    with pytest.raises(FormatError):
        stat.parse(text)


@pytest.mark.parametrize("host", captured(), ids=lambda host: host.name)
def test_captured_hosts_round_trip(host):
    text = (host / "proc/stat").read_bytes()
    assert stat.render(stat.parse(text)) == text


def test_lines_of_ours_parse():
    text = stat.total_line(3, 0, 1, 9) + stat.cpu_line(4, 3, 0, 1, 9) + REST
    columns = (3, 0, 1, 9, 0, 0, 0, 0, 0, 0)
    assert stat.parse(text) == stat.Stat(columns, {4: columns}, REST)


def test_replaced_changes_one_value():
    assert stat.replaced(REST, b"procs_running", 12) == REST.replace(b"running 3", b"running 12")
    assert stat.replaced(REST, b"procs_sleeping", 12) == REST
    assert stat.replaced(b"intr 1\nctxt 3", b"ctxt", 4) == b"intr 1\nctxt 4"


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda more: CASES[0][0][:70] + more))
def test_any_bytes_parse_or_raise_format_error(text):
    try:
        parsed = stat.parse(text)
    except FormatError:
        return
    assert stat.parse(stat.render(parsed)) == parsed


COLUMNS = st.lists(st.integers(0, 2**64), min_size=4, max_size=12).map(tuple)


@given(COLUMNS, st.dictionaries(st.integers(0, 99999), COLUMNS, max_size=5))
def test_round_trip(total, cpus):
    value = stat.Stat(total, cpus, REST)
    assert stat.parse(stat.render(value)) == value
