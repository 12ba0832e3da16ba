"""Measured values: samples of a reader, figures of a server, targets.

Pure: numbers in, numbers out. Latencies are nanoseconds.
"""

from __future__ import annotations

import statistics
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Reads:
    """The result of a job. `samples` may have fewer than `count` latencies."""

    count: int
    failures: int
    sum_ns: int
    elapsed_ns: int
    samples: array[int]

    @property
    def mean_ns(self) -> float:
        return self.sum_ns / self.count if self.count else 0.0


def merge(parts: Iterable[Reads]) -> Reads:
    """Merge the results of readers that ran at the same time."""
    everyone = list(parts)
    return replace(
        in_turn(everyone), elapsed_ns=max((part.elapsed_ns for part in everyone), default=0)
    )


def in_turn(parts: Iterable[Reads]) -> Reads:
    """Merge results of jobs that ran one after the other."""
    samples = array("I")
    count = failures = sum_ns = elapsed_ns = 0
    for part in parts:
        count += part.count
        failures += part.failures
        sum_ns += part.sum_ns
        elapsed_ns += part.elapsed_ns
        samples.extend(part.samples)
    return Reads(count, failures, sum_ns, elapsed_ns, samples)


def percentile(ordered: Sequence[int], percent: float) -> float:
    """Return a percentile of ascending values, by nearest rank."""
    if not ordered:
        return 0.0
    rank = -(-len(ordered) * percent // 100)
    return float(ordered[max(0, int(rank) - 1)])


@dataclass(frozen=True)
class Figures:
    """A server in a case: latencies, reads a second, CPU time."""

    reads: int
    failures: int
    mean_ns: float
    p50_ns: float
    p99_ns: float
    min_ns: float
    #: Reads a second, summed over all readers.
    rate: float
    #: CPU time of the server's processes per read; None for the kernel's own files.
    cpu_ns: float | None


def mean(parts: Sequence[Figures]) -> Figures:
    """Return the mean of figures; reads and failures are summed."""
    cpu_ns = [part.cpu_ns for part in parts if part.cpu_ns is not None]
    return Figures(
        reads=sum(part.reads for part in parts),
        failures=sum(part.failures for part in parts),
        mean_ns=statistics.fmean(part.mean_ns for part in parts),
        p50_ns=statistics.fmean(part.p50_ns for part in parts),
        p99_ns=statistics.fmean(part.p99_ns for part in parts),
        min_ns=min(part.min_ns for part in parts),
        rate=statistics.fmean(part.rate for part in parts),
        cpu_ns=statistics.fmean(cpu_ns) if len(cpu_ns) == len(parts) else None,
    )


@dataclass
class Rounds:
    """The rounds of a server in a case; servers alternate."""

    reads: list[Reads] = field(default_factory=list)
    cpu_ns: list[int | None] = field(default_factory=list)

    def add(self, reads: Reads, cpu_ns: int | None) -> None:
        self.reads.append(reads)
        self.cpu_ns.append(cpu_ns)

    def figures(self) -> Figures:
        """Return the medians of the rounds.

        They ignore a single bad round. CPU time is the mean over all rounds instead: a server that
        renders once a second has cheap and expensive rounds, and both are part of its cost.
        """
        ordered = [sorted(reads.samples) for reads in self.reads]
        count = sum(reads.count for reads in self.reads)
        known = [spent for spent in self.cpu_ns if spent is not None]
        return Figures(
            reads=count,
            failures=sum(reads.failures for reads in self.reads),
            mean_ns=statistics.median(reads.mean_ns for reads in self.reads),
            p50_ns=statistics.median(percentile(samples, 50) for samples in ordered),
            p99_ns=statistics.median(percentile(samples, 99) for samples in ordered),
            min_ns=min((float(samples[0]) for samples in ordered if samples), default=0.0),
            rate=statistics.median(
                reads.count * 1e9 / reads.elapsed_ns if reads.elapsed_ns else 0.0
                for reads in self.reads
            ),
            cpu_ns=sum(known) / count if len(known) == len(self.reads) and count else None,
        )

    def pooled(self) -> Figures:
        """Return figures of all rounds as one, for few reads."""
        known = [spent for spent in self.cpu_ns if spent is not None]
        whole = Rounds([in_turn(self.reads)], [sum(known) if known else None])
        return whole.figures()


@dataclass(frozen=True)
class Verdict:
    """A measured value and its target. `value` None: not measured."""

    what: str
    value: float | None
    limit: float
    unit: str = "x"
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """Return ours / theirs; None if it is not defined."""
    if ours is None or not theirs:
        return None
    return ours / theirs


#: The subject of a row over all files of a case.
MEAN = "mean of the files"


@dataclass(frozen=True)
class Row:
    """A line of the report: case, file or other subject, and figures."""

    case: str
    subject: str
    figures: dict[str, Figures]
    verdicts: tuple[Verdict, ...] = ()


@dataclass(frozen=True)
class Memory:
    """Memory of a server's processes in bytes; PSS divides shared pages."""

    rss: int
    pss: int
