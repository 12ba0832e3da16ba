"""The pure parts of the benchmarks: statistics, targets, the report. Nothing is timed here."""

from __future__ import annotations

import json
import math
from array import array
from dataclasses import replace

import pytest

from benchmarks.cases import CASES, UNJUDGED, Limits, Steady
from benchmarks.measure import (
    MEAN,
    Figures,
    Reads,
    Rounds,
    Row,
    Verdict,
    mean,
    merge,
    percentile,
    ratio,
)
from benchmarks.report import (
    README,
    as_json,
    bars,
    document,
    number,
    readme_table,
    summary_table,
    verdicts_table,
)


def reads(*ns: int, elapsed_ns: int = 1_000_000_000) -> Reads:
    return Reads(len(ns), 0, sum(ns), elapsed_ns, array("I", ns))


def figures(mean_ns: float) -> Figures:
    return Figures(10, 0, mean_ns, mean_ns, mean_ns, mean_ns, 100.0, 5000.0)


@pytest.mark.parametrize(
    ("percent", "value"), [(0, 10), (50, 20), (75, 30), (76, 40), (99, 40), (100, 40)]
)
def test_percentile_is_a_value_that_was_measured(percent: float, value: int) -> None:
    assert percentile([10, 20, 30, 40], percent) == value


def test_percentile_of_nothing_is_zero() -> None:
    assert percentile([], 99) == 0


def test_merge_adds_reads_of_concurrent_readers_and_keeps_the_longest_time() -> None:
    merged = merge([reads(1, 2, elapsed_ns=5), reads(9, elapsed_ns=7)])
    assert (merged.count, merged.sum_ns, merged.elapsed_ns) == (3, 12, 7)
    assert list(merged.samples) == [1, 2, 9]


def test_one_bad_round_does_not_change_latency() -> None:
    rounds = Rounds()
    for latency in (100, 5000, 102):
        rounds.add(reads(latency, latency), 40)
    found = rounds.figures()
    assert (found.mean_ns, found.p99_ns, found.min_ns) == (102, 102, 100)
    assert found.rate == 2


def test_cpu_time_of_all_rounds_counts() -> None:
    rounds = Rounds()
    rounds.add(reads(1, 1), 0)
    rounds.add(reads(1, 1), 400)
    assert rounds.figures().cpu_ns == 100


def test_a_server_without_processes_has_no_cpu_time() -> None:
    rounds = Rounds()
    rounds.add(reads(1), None)
    assert rounds.figures().cpu_ns is None


def test_the_mean_over_files_counts_each_file_once() -> None:
    found = mean([figures(10.0), replace(figures(30.0), reads=90, failures=1)])
    assert (found.mean_ns, found.reads, found.failures, found.cpu_ns) == (20.0, 100, 1, 5000.0)


def test_the_mean_of_files_without_cpu_time_has_none() -> None:
    assert mean([figures(1.0), replace(figures(1.0), cpu_ns=None)]).cpu_ns is None


def test_targets_are_met_at_the_limit() -> None:
    assert Verdict("latency / C", 0.35, 0.35).met is True
    assert Verdict("latency / C", 0.36, 0.35).met is False
    assert Verdict("throughput / C", 2.0, 2.0, at_least=True).met is True
    assert Verdict("throughput / C", 1.9, 2.0, at_least=True).met is False
    assert Verdict("latency / C", None, 0.35).met is None


def test_ratio_says_nothing_without_both_numbers() -> None:
    assert ratio(1.0, 2.0) == 0.5
    assert ratio(None, 2.0) is None
    assert ratio(1.0, None) is None
    assert ratio(1.0, 0.0) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (math.nan, "-"), (0.1234, "0.123"), (1.234, "1.23"), (12.34, "12.3")],
)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


def test_a_unit_is_shown_unless_it_is_a_ratio() -> None:
    assert number(1234.5, "KiB") == "1234 KiB"
    assert number(0.5, "x") == "0.500"


ROWS = [
    Row(
        "own-100",
        f"proc/{name}",
        {"procfs": figures(10_000), "pylxcfs": figures(ours), "lxcfs": figures(300_000)},
        (Verdict("latency / C", ours / 300_000, 0.35),),
    )
    for name, ours in (("meminfo", 90_000), ("stat", 120_000))
] + [
    Row("memory", "lxcfs", {}, (Verdict("RSS", 4.0, UNJUDGED, "MiB"),)),
]


def test_summary_names_the_worst_file_and_how_many_meet_the_target() -> None:
    (line,) = summary_table(ROWS, {"own-100": "own node"}).splitlines()[2:]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == [
        *("own node", "latency / C", "0.350", "0.400 (stat)", "<= 0.35"),
        "NOT MET, 1 of 2",
    ]


def test_the_worst_of_what_should_be_large_is_the_smallest() -> None:
    rows = [
        Row("eight", name, {}, (Verdict("throughput / C", value, 2.0, at_least=True),))
        for name, value in (("a", 3.0), ("b", 2.5))
    ]
    text = summary_table(rows, {})
    assert "2.50 (b)" in text
    assert "| met" in text


def test_a_number_without_a_target_is_shown_and_not_judged() -> None:
    line = verdicts_table(ROWS).splitlines()[-1]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["memory", "lxcfs", "RSS", "4.00 MiB", "", ""]


def test_the_report_shows_every_server_and_the_machine() -> None:
    text = document(ROWS, {}, {"kernel": "6.18"})
    assert "- kernel: 6.18" in text
    assert text.count("proc/meminfo") == 4
    assert "nan" not in text


def test_json_is_valid_without_infinities() -> None:
    found = json.loads(as_json(ROWS, {"kernel": "6.18"}), parse_constant=pytest.fail)
    assert found["rows"][0]["figures"]["lxcfs"]["mean_ns"] == 300_000
    assert found["rows"][0]["verdicts"][0]["met"] is True
    assert found["rows"][-1]["verdicts"][0]["limit"] is None


def test_the_picture_has_three_bars_a_file() -> None:
    means = Row("own-100", MEAN, ROWS[0].figures)
    files, seats = bars([*ROWS, means], "own-100")
    assert files == ["meminfo", "stat"]
    assert set(seats) == {"procfs", "pylxcfs", "lxcfs"}
    assert bars(ROWS, "absent") == ([], {})


def test_names_of_cases_are_unique() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


def test_readme_takes_its_rows_from_cases_that_exist() -> None:
    names = {case.name for case in CASES}
    assert {name for row in README for name in (row[0], row[2])} | {"eight"} <= names


def test_readme_shows_means_over_files_in_microseconds() -> None:
    both = {"pylxcfs": figures(90_000), "lxcfs": figures(300_000)}
    kernel = {**both, "procfs": figures(10_000)}
    rows = [
        *ROWS,
        Row("own-100", MEAN, kernel),
        Row("caller-100", MEAN, both),
        Row("eight", "all files in turn", kernel),
    ]
    lines = readme_table(rows).splitlines()[2:]
    assert [[cell.strip() for cell in line.strip("|").split("|")][1:] for line in lines] == [
        ["90.0", "300", "10.0"],
        ["90.0", "300", "10.0"],
        ["100", "100", "100"],
    ]


def test_a_file_that_procfs_prints_faster_has_no_target_against_it() -> None:
    verdicts = [
        Steady("own", kernel=True)._verdicts(ROWS[0].figures, Limits(procfs=1.0), kernel=kernel)
        for kernel in (True, False)
    ]
    limits = [found.limit for (*_, found) in verdicts]
    assert limits == [1.0, UNJUDGED]
