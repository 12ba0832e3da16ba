"""The cases: readers, files, rates, and targets.

Each case makes the rows of the report. Servers take turns in short rounds (A, B, A, B); a
round's containers and files are the same for all of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks import captured
from benchmarks.containers import MIB, Bind, Container, Fleet, Job, run
from benchmarks.measure import MEAN, Figures, Memory, Rounds, Row, Verdict, mean, ratio
from benchmarks.servers import CAPTURED, Server

FILES = (
    "proc/meminfo",
    "proc/cpuinfo",
    "proc/stat",
    "proc/uptime",
    "proc/loadavg",
    "proc/swaps",
    "proc/diskstats",
    "sys/devices/system/cpu/online",
)
MONITORED = FILES[:5]
#: Files that the kernel's own procfs takes longer to print than the page cache to give.
AGAINST_KERNEL = ("proc/meminfo", "proc/cpuinfo", "proc/stat", "proc/diskstats")
PEER = "lxcfs"
OURS = "pylxcfs"
TTL0 = "pylxcfs-ttl0"
KERNEL = "procfs"
#: The limit of a number that is shown for comparison and has no target.
UNJUDGED = float("inf")
#: Seconds of a paced round. Longer than a text lives, which of loadavg is a second.
PACED_S = 1.2


@dataclass
class Bench:
    """The environment of a case. `quick`: fewer rounds and containers."""

    fleet: Fleet
    servers: dict[str, Server]
    files: Sequence[str]
    quick: bool

    def pick(self, full: float, quick: float) -> float:
        return quick if self.quick else full

    def number(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    @contextmanager
    def containers(
        self,
        number: int,
        files: Sequence[str],
        seats: Sequence[str],
        *binds: Bind,
        memory: int = 256 * MIB,
    ) -> Iterator[list[Container]]:
        with self.fleet.containers(number, files, seats, binds, memory) as containers:
            yield containers

    @property
    def monitored(self) -> Sequence[str]:
        """The files that a monitor in every container reads."""
        return [file for file in MONITORED if file in self.files] or self.files

    def paths(self, seat: str, bind: Bind, files: Sequence[str]) -> list[str]:
        return [self.fleet.path(seat, bind, file) for file in files]

    def measure(
        self,
        seat: str,
        rounds: Rounds,
        containers: Sequence[Container],
        job: Job,
        spread_s: float = 0.0,
    ) -> None:
        """Run a job in all containers; add reads and CPU time."""
        server = self.servers[seat]
        before = server.cpu_ns()
        reads = run(containers, job, spread_s=spread_s)
        after = server.cpu_ns()
        rounds.add(reads, None if before is None or after is None else after - before)


@dataclass(frozen=True)
class Case:
    """Name for --only, title in the report, seats, and function."""

    name: str
    title: str
    seats: tuple[str, ...]
    measure: Callable[[Bench], list[Row]]


@dataclass(frozen=True)
class Limits:
    """Targets: ratios to C LXCFS, or to the kernel's own procfs."""

    latency: float = UNJUDGED
    cpu: float = UNJUDGED
    #: Of AGAINST_KERNEL alone.
    procfs: float = UNJUDGED


@dataclass(frozen=True)
class Steady:
    """One reader of one file at a time: most cases."""

    bind: Bind
    rate: int = 0
    keep: bool = False
    fresh: bool = False
    ours: str = OURS
    kernel: bool = False
    #: What each file has to reach, and what the mean over the files has to.
    each: Limits = Limits()
    mean: Limits = Limits()

    @property
    def seats(self) -> tuple[str, ...]:
        return (*([KERNEL] if self.kernel else []), self.ours, PEER)

    def measure(self, case: str, bench: Bench) -> list[Row]:
        rounds = bench.number(3, 2)
        seconds = bench.pick(PACED_S, 0.25) if self.rate else bench.pick(0.3, 0.07)
        if bench.quick and self.rate and self.rate * seconds < 10:
            # Too few reads: one long round instead of two.
            rounds, seconds = 1, PACED_S
        rows = []
        with bench.containers(1, bench.files, self.seats, self.bind) as (container,):
            for file in bench.files:
                seen = {seat: Rounds() for seat in self.seats}
                for seat in self.seats:
                    # Not measured: what only the first reads of a reader and a file cost.
                    run([container], Job(bench.paths(seat, self.bind, [file]), count=3))
                for seat in self.seats * rounds:
                    job = Job(
                        bench.paths(seat, self.bind, [file]),
                        keep=self.keep,
                        fresh=self.fresh,
                        rate=self.rate,
                        seconds=seconds,
                    )
                    bench.measure(seat, seen[seat], [container], job)
                figures = {seat: found.figures() for seat, found in seen.items()}
                verdicts = self._verdicts(figures, self.each, kernel=file in AGAINST_KERNEL)
                rows.append(Row(case, file, figures, verdicts))
        figures = _mean(rows)
        verdicts = self._verdicts(figures, self.mean, kernel=False)
        return [*rows, Row(case, MEAN, figures, verdicts)]

    def _verdicts(
        self, figures: dict[str, Figures], limits: Limits, *, kernel: bool
    ) -> tuple[Verdict, ...]:
        ours, peer = figures[self.ours], figures[PEER]
        verdicts = [
            Verdict("latency / C", ratio(ours.mean_ns, peer.mean_ns), limits.latency),
            Verdict("CPU / C", ratio(ours.cpu_ns, peer.cpu_ns), limits.cpu),
        ]
        if KERNEL in figures:
            value = ratio(ours.mean_ns, figures[KERNEL].mean_ns)
            limit = limits.procfs if kernel else UNJUDGED
            verdicts.append(Verdict("latency / procfs", value, limit))
        return tuple(verdicts)


def _mean(rows: Sequence[Row]) -> dict[str, Figures]:
    """Return the figures of each server over all files."""
    return {seat: mean([row.figures[seat] for row in rows]) for seat in rows[0].figures}


def _first(bind: Bind, limit: float) -> Callable[[str, Bench], list[Row]]:
    def measure(case: str, bench: Bench) -> list[Row]:
        """Measure the first read of each file in a new container."""
        rows = []
        seats = (KERNEL, OURS, PEER)
        for file in bench.files:
            seen = {seat: Rounds() for seat in seats}
            with bench.containers(bench.number(12, 3), [file], seats, bind) as containers:
                for index, container in enumerate(containers):
                    for seat in seats if index % 2 else seats[::-1]:
                        job = Job(bench.paths(seat, bind, [file]), count=1)
                        bench.measure(seat, seen[seat], [container], job)
            figures = {seat: found.pooled() for seat, found in seen.items()}
            rows.append(Row(case, file, figures, (_latency(figures, UNJUDGED),)))
        figures = _mean(rows)
        return [*rows, Row(case, MEAN, figures, (_latency(figures, limit),))]

    return measure


def _latency(figures: dict[str, Figures], limit: float) -> Verdict:
    return Verdict("latency / C", ratio(figures[OURS].mean_ns, figures[PEER].mean_ns), limit)


def _eight(case: str, bench: Bench) -> list[Row]:
    """Readers in eight containers at once, without a pause."""
    seats = (KERNEL, OURS, PEER)
    seconds = bench.pick(1.0, 0.3)
    seen = {seat: Rounds() for seat in seats}
    with bench.containers(8, bench.files, seats, "own") as containers:
        for seat in seats * bench.number(5, 2):
            job = Job(bench.paths(seat, "own", bench.files), seconds=seconds)
            bench.measure(seat, seen[seat], containers, job)
    figures = {seat: found.figures() for seat, found in seen.items()}
    value = ratio(figures[OURS].rate, figures[PEER].rate)
    verdict = Verdict("throughput / C", value, 30.0, at_least=True)
    return [Row(case, "all files in turn", figures, (verdict,))]


def _many(case: str, bench: Bench) -> list[Row]:
    """200 containers, five files once a second; then the servers' memory."""
    seats = (OURS, PEER)
    number = bench.number(200, 40)
    seconds = bench.pick(3.0, 0.8)
    seen = {seat: Rounds() for seat in seats}
    with bench.containers(1, bench.files, seats, "own") as containers:
        alone = _memory_after_reading(bench, containers, seats)
    with bench.containers(number, bench.files, seats, "own") as containers:
        _memory_after_reading(bench, containers, seats)
        for seat in seats * bench.number(5, 1):
            paths = bench.paths(seat, "own", bench.monitored)
            job = Job(paths, rate=len(paths), seconds=seconds)
            bench.measure(seat, seen[seat], containers, job, spread_s=1.0)
        crowd = _memory_after_reading(bench, containers, seats)
    figures = {seat: found.figures() for seat, found in seen.items()}
    ours, peer = figures[OURS], figures[PEER]
    rows = [
        Row(
            case,
            f"{number} containers, {len(bench.monitored)} files a second",
            figures,
            (
                Verdict("p99 / C", ratio(ours.p99_ns, peer.p99_ns), 1.0),
                Verdict("CPU / C", ratio(ours.cpu_ns, peer.cpu_ns), 0.7),
            ),
        )
    ]
    for seat in seats:
        most, most_each = (50.0, 30.0) if seat == OURS else (UNJUDGED, UNJUDGED)
        growth = (crowd[seat].pss - alone[seat].pss) / (number - 1) / 1024
        verdicts = (
            Verdict(f"RSS with {number} containers", crowd[seat].rss / 2**20, most, "MiB"),
            Verdict(f"PSS with {number} containers", crowd[seat].pss / 2**20, UNJUDGED, "MiB"),
            Verdict("growth a container", growth, most_each, "KiB"),
        )
        rows.append(Row("memory", seat, {}, verdicts))
    return rows


def _memory_after_reading(
    bench: Bench, containers: Sequence[Container], seats: Sequence[str]
) -> dict[str, Memory]:
    """Read every file in every container, then measure the memory."""
    for seat in seats:
        run(containers, Job(bench.paths(seat, "own", bench.files), count=len(bench.files)))
    return {seat: bench.servers[seat].memory() for seat in seats}


#: What a noisy neighbour does.
READERS = "32 threads reading"
NAMESPACES = "new pid namespaces, 3,000 threads"
NAMES = "3,000 processes guessing names"
LISTS = "64 processes listing directories"


@contextmanager
def _noise(
    kind: str, bench: Bench, neighbour: Container, seat: str, bind: Bind, seconds: float
) -> Iterator[None]:
    """Make noise in a neighbour; READERS end after `seconds`."""
    root = bench.servers[seat].root(bind)
    if kind == READERS:
        neighbour.start(Job(bench.paths(seat, bind, bench.files), threads=32, seconds=seconds))
        yield
        neighbour.finish()
        return
    system = root / "sys/devices/system"
    if kind == NAMESPACES:
        arguments = ["namespaces", "3000", str(root / "proc/loadavg")]
    elif kind == NAMES:
        places = [place for place in (root / "own", root, root / "proc") if place.is_dir()]
        arguments = ["guess", "3000", *map(str, places)]
    else:
        places = [root / "proc", system, *(system / name for name in os.listdir(system))]
        arguments = ["list", "64", *map(str, places)]
    with neighbour.noise(*arguments):
        yield


def _noisy(bind: Bind) -> Callable[[str, Bench], list[Row]]:
    def measure(case: str, bench: Bench) -> list[Row]:
        """Measure a container beside a noisy neighbour and a quiet one."""
        kinds = (READERS, NAMESPACES, NAMES, LISTS)
        seconds = bench.pick(2.0, 1.0)
        quiet = {seat: Rounds() for seat in (OURS, PEER)}
        noisy = {(kind, seat): Rounds() for kind in kinds for seat in quiet}
        with bench.containers(2, bench.files, list(quiet), bind, memory=1024 * MIB) as (
            victim,
            neighbour,
        ):
            for number in range(bench.number(4, 1)):
                # C LXCFS is there for comparison: half the rounds are enough.
                for seat in (OURS, PEER) if number % 2 == 0 else (OURS,):
                    job = Job(bench.paths(seat, bind, bench.monitored), rate=100, seconds=seconds)
                    # No CPU time: most of it is the neighbour's.
                    quiet[seat].add(run([victim], job, lead_s=0.1), None)
                    for kind in kinds:
                        with _noise(kind, bench, neighbour, seat, bind, seconds + 0.2):
                            # The victim starts once its neighbour is at full noise.
                            noisy[kind, seat].add(run([victim], job, lead_s=0.1), None)
        rows = []
        for (kind, seat), rounds in noisy.items():
            # All rounds together: one round has too few reads for a 99th percentile.
            calm, loud = quiet[seat].pooled(), rounds.pooled()
            limit = 3.0 if seat == OURS else UNJUDGED
            verdict = Verdict("p99 / quiet p99", ratio(loud.p99_ns, calm.p99_ns), limit)
            figures = {"quiet": calm, "noisy": loud}
            rows.append(Row(case, f"{kind}: {seat}", figures, (verdict,)))
        return rows

    return measure


def _captured(case: str, bench: Bench) -> list[Row]:
    """Read texts of 16 CPUs of a captured host in a loop."""
    files = [file for file in captured.FILES if file in bench.files]
    rows = []
    with bench.containers(1, files, (CAPTURED,), "own") as (container,):
        for file in files:
            job = Job(bench.paths(CAPTURED, "own", [file]), seconds=bench.pick(0.4, 0.1))
            size = _size_of_captured(container, job.paths[0])
            rounds = Rounds()
            for _ in range(3):
                bench.measure(CAPTURED, rounds, [container], job)
            found = rounds.figures()
            verdict = Verdict("latency", found.mean_ns / 1000, 10.0, "us")
            subject = f"{file} of 16 CPUs, {size} bytes"
            rows.append(Row(case, subject, {CAPTURED: found}, (verdict,)))
    return rows


def _size_of_captured(container: Container, path: str) -> int:
    """Return the size of a file; it must show 16 CPUs."""
    with open(f"/proc/{container.pid}/root{path}", "rb") as file:
        text = file.read()
    cpus = len(re.findall(rb"^(?:processor\s*:|cpu[0-9])", text, re.MULTILINE))
    if cpus != 16:
        raise RuntimeError(f"{path}: {cpus} CPUs instead of 16")
    return len(text)


def _case(
    name: str,
    title: str,
    measure: Steady | Callable[[str, Bench], list[Row]],
    *seats: str,
) -> Case:
    if isinstance(measure, Steady):
        return Case(name, title, measure.seats, lambda bench: measure.measure(name, bench))
    return Case(name, title, seats or (OURS, PEER), lambda bench: measure(name, bench))


CASES = (
    _case(
        "own-loop",
        "own mount, loop",
        Steady("own", kernel=True, each=Limits(latency=0.04, cpu=0.02, procfs=1.0)),
    ),
    _case(
        "own-300",
        "own mount, 300 reads/s",
        Steady("own", rate=300, mean=Limits(latency=0.12, cpu=0.12)),
    ),
    _case(
        "own-100",
        "own mount, 100 reads/s",
        Steady("own", rate=100, kernel=True, mean=Limits(latency=0.30, cpu=0.25)),
    ),
    _case(
        "own-10",
        "own mount, 10 reads/s",
        Steady("own", rate=10, mean=Limits(latency=0.75, cpu=0.60)),
    ),
    _case(
        "kept-open",
        "own mount, kept open, read from offset 0",
        Steady("own", keep=True, kernel=True, each=Limits(latency=0.02, cpu=0.02)),
    ),
    _case(
        "kept-open-new",
        "the same by a new thread that opens it once",
        Steady("own", keep=True, fresh=True, kernel=True, each=Limits(latency=0.02, cpu=0.02)),
    ),
    _case(
        "ttl0-loop",
        "own mount, --cache-ttl=0, loop",
        Steady("own", ours=TTL0, mean=Limits(latency=1.2, cpu=1.2)),
    ),
    _case(
        "caller-loop",
        "caller mount, loop",
        Steady("caller", mean=Limits(latency=1.1, cpu=1.0)),
    ),
    _case(
        "caller-100",
        "caller mount, 100 reads/s",
        Steady("caller", rate=100, mean=Limits(latency=1.1, cpu=1.0)),
    ),
    _case(
        "first-own",
        "first read of a new container, own mount",
        _first("own", 0.7),
        KERNEL,
        OURS,
        PEER,
    ),
    _case(
        "first-caller",
        "first read of a new container, caller mount",
        _first("caller", 0.7),
        KERNEL,
        OURS,
        PEER,
    ),
    _case("eight", "8 readers in 8 containers", _eight, KERNEL, OURS, PEER),
    _case("many", "200 containers, 5 files once a second; memory", _many),
    _case("noisy-own", "noisy neighbour, own mount", _noisy("own")),
    _case("noisy-caller", "noisy neighbour, caller mount", _noisy("caller")),
    _case("captured", "16 of a captured host's 64 CPUs, own mount, loop", _captured, CAPTURED),
)
