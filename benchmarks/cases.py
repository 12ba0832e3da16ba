"""The cases: what is read how often by whom, and what must come out.

Each case gives the rows of the report. Servers take turns in short rounds (A, B, A, B); a
round's containers and files are the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.containers import Bind, Container, Fleet, Job, run
from benchmarks.measure import Figures, Memory, Rounds, Row, Verdict, ratio
from benchmarks.servers import Server

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
PEER = "lxcfs"
OURS = "pylxcfs"
TTL0 = "pylxcfs-ttl0"
KERNEL = "procfs"
#: The limit of a number that is shown for comparison and has no target.
UNJUDGED = float("inf")


@dataclass
class Bench:
    """What a case has to work with. `quick`: fewer and shorter rounds, fewer containers."""

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
        self, number: int, files: Sequence[str], seats: Sequence[str], *binds: Bind
    ) -> Iterator[list[Container]]:
        with self.fleet.containers(number, files, seats, binds) as containers:
            yield containers

    @property
    def monitored(self) -> Sequence[str]:
        """What a monitor in every container reads, as far as it is among the files chosen."""
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
        """Run a job in each container at once, and count what the seat's server spent on it."""
        server = self.servers[seat]
        before = server.cpu_ns()
        reads = run(containers, job, spread_s=spread_s)
        after = server.cpu_ns()
        rounds.add(reads, None if before is None or after is None else after - before)


@dataclass(frozen=True)
class Case:
    """A name for --only, one line for the report, the seats it needs, and how it is measured."""

    name: str
    title: str
    seats: tuple[str, ...]
    measure: Callable[[Bench], list[Row]]


@dataclass(frozen=True)
class Steady:
    """One reader, one file, for a while: the shape of most cases."""

    bind: Bind
    rate: int = 0
    keep: bool = False
    fresh: bool = False
    ours: str = OURS
    kernel: bool = False
    latency: float | None = None
    cpu: float | None = None
    #: Most times the kernel's own latency.
    over_kernel: float | None = None

    @property
    def seats(self) -> tuple[str, ...]:
        return (*([KERNEL] if self.kernel else []), self.ours, PEER)

    def measure(self, case: str, bench: Bench) -> list[Row]:
        rounds = bench.number(3, 2)
        # A paced round is longer than a snapshot lives, so that it has its share of misses.
        seconds = bench.pick(0.9 if self.rate else 0.4, 0.12 if self.rate else 0.07)
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
                rows.append(Row(case, file, figures, self._verdicts(figures)))
        return rows

    def _verdicts(self, figures: dict[str, Figures]) -> tuple[Verdict, ...]:
        ours, peer = figures[self.ours], figures[PEER]
        verdicts = []
        if self.latency is not None:
            value = ratio(ours.mean_ns, peer.mean_ns)
            verdicts.append(Verdict("latency / C", value, self.latency))
        if self.cpu is not None:
            verdicts.append(Verdict("CPU / C", ratio(ours.cpu_ns, peer.cpu_ns), self.cpu))
        if self.over_kernel is not None and KERNEL in figures:
            value = ratio(ours.mean_ns, figures[KERNEL].mean_ns)
            verdicts.append(Verdict("latency / procfs", value, self.over_kernel))
        return tuple(verdicts)


def _first(bind: Bind, limit: float) -> Callable[[str, Bench], list[Row]]:
    def measure(case: str, bench: Bench) -> list[Row]:
        """Read each file as the first one ever of a new container, of each server once."""
        rows = []
        seats = (OURS, PEER)
        for file in bench.files:
            seen = {seat: Rounds() for seat in seats}
            with bench.containers(bench.number(12, 3), [file], seats, bind) as containers:
                for index, container in enumerate(containers):
                    for seat in seats if index % 2 else seats[::-1]:
                        job = Job(bench.paths(seat, bind, [file]), count=1)
                        bench.measure(seat, seen[seat], [container], job)
            figures = {seat: found.pooled() for seat, found in seen.items()}
            value = ratio(figures[OURS].mean_ns, figures[PEER].mean_ns)
            rows.append(Row(case, file, figures, (Verdict("latency / C", value, limit),)))
        return rows

    return measure


def _eight(case: str, bench: Bench) -> list[Row]:
    """Readers in eight containers at once, without a pause."""
    seats = (OURS, PEER)
    seconds = bench.pick(1.0, 0.3)
    seen = {seat: Rounds() for seat in seats}
    with bench.containers(8, bench.files, seats, "own") as containers:
        for seat in seats * bench.number(5, 2):
            job = Job(bench.paths(seat, "own", bench.files), seconds=seconds)
            bench.measure(seat, seen[seat], containers, job)
    figures = {seat: found.figures() for seat, found in seen.items()}
    value = ratio(figures[OURS].rate, figures[PEER].rate)
    verdict = Verdict("throughput / C", value, 2.0, at_least=True)
    return [Row(case, "all files in turn", figures, (verdict,))]


def _many(case: str, bench: Bench) -> list[Row]:
    """200 containers whose monitors read five files once a second; then the servers' memory."""
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
                Verdict("CPU / C", ratio(ours.cpu_ns, peer.cpu_ns), 1.0),
            ),
        )
    ]
    for seat in seats:
        limit = 50.0 if seat == OURS else UNJUDGED
        growth = (crowd[seat].pss - alone[seat].pss) / (number - 1) / 1024
        verdicts = (
            Verdict(f"RSS with {number} containers", crowd[seat].rss / 2**20, limit, "MiB"),
            Verdict(f"PSS with {number} containers", crowd[seat].pss / 2**20, UNJUDGED, "MiB"),
            Verdict("growth a container", growth, limit, "KiB"),
        )
        rows.append(Row("memory", seat, {}, verdicts))
    return rows


def _memory_after_reading(
    bench: Bench, containers: Sequence[Container], seats: Sequence[str]
) -> dict[str, Memory]:
    """Read every file in every container, so all that is kept of one is there, and measure."""
    for seat in seats:
        run(containers, Job(bench.paths(seat, "own", bench.files), count=len(bench.files)))
    return {seat: bench.servers[seat].memory() for seat in seats}


def _noisy(bind: Bind) -> Callable[[str, Bench], list[Row]]:
    def measure(case: str, bench: Bench) -> list[Row]:
        """Read in one container while 32 threads of another read all they can."""
        seats = (OURS, PEER)
        seconds = bench.pick(2.0, 0.4)
        quiet = {seat: Rounds() for seat in seats}
        noisy = {seat: Rounds() for seat in seats}
        with bench.containers(2, bench.files, seats, bind) as (victim, neighbour):
            for seat in seats * bench.number(3, 1):
                job = Job(bench.paths(seat, bind, bench.monitored), rate=100, seconds=seconds)
                # CPU time says nothing here: most of it is the neighbour's.
                quiet[seat].add(run([victim], job), None)
                everything = bench.paths(seat, bind, bench.files)
                neighbour.start(Job(everything, threads=32, seconds=seconds + 0.2))
                # The victim starts once its neighbour is at full noise.
                noisy[seat].add(run([victim], job, lead_s=0.1), None)
                neighbour.finish()
        rows = []
        for seat in seats:
            # Of all rounds together: one round has too few reads for a 99th percentile.
            calm, loud = quiet[seat].pooled(), noisy[seat].pooled()
            limit = 3.0 if seat == OURS else UNJUDGED
            value = ratio(loud.p99_ns, calm.p99_ns)
            figures = {"quiet": calm, "noisy": loud}
            rows.append(Row(case, seat, figures, (Verdict("p99 / quiet p99", value, limit),)))
        return rows

    return measure


def _case(name: str, title: str, measure: Steady | Callable[[str, Bench], list[Row]]) -> Case:
    if isinstance(measure, Steady):
        return Case(name, title, measure.seats, lambda bench: measure.measure(name, bench))
    return Case(name, title, (OURS, PEER), lambda bench: measure(name, bench))


CASES = (
    _case(
        "own-100",
        "own node, 100 reads/s",
        Steady("own", rate=100, kernel=True, latency=0.35, cpu=0.35),
    ),
    _case("own-300", "own node, 300 reads/s", Steady("own", rate=300, latency=0.35, cpu=0.35)),
    _case(
        "own-loop",
        "own node, without a pause",
        Steady("own", kernel=True, latency=0.35, cpu=0.35),
    ),
    _case(
        "ttl0-100",
        "own node, --cache-ttl=0, 100 reads/s",
        Steady("own", rate=100, ours=TTL0, latency=1.2, cpu=1.2),
    ),
    _case(
        "ttl0-loop",
        "own node, --cache-ttl=0, without a pause",
        Steady("own", ours=TTL0, latency=1.2, cpu=1.2),
    ),
    _case("host-100", "host's node, 100 reads/s", Steady("host", rate=100, latency=1.0, cpu=0.8)),
    _case("host-loop", "host's node, without a pause", Steady("host", latency=1.0, cpu=0.8)),
    _case(
        "kept-open",
        "own node, kept open, read from offset 0",
        Steady("own", keep=True, kernel=True, latency=0.03, cpu=0.03, over_kernel=2.0),
    ),
    _case(
        "kept-open-new",
        "the same by a new process that opens it once",
        Steady("own", keep=True, fresh=True, kernel=True, latency=0.03, cpu=0.03, over_kernel=2.0),
    ),
    _case(
        "own-new",
        "own node, each read by a new process, 100 reads/s",
        Steady("own", rate=100, fresh=True, latency=UNJUDGED, cpu=UNJUDGED),
    ),
    _case("first-own", "first read of a new container, own node", _first("own", 0.7)),
    _case("first-host", "first read of a new container, host's node", _first("host", 0.7)),
    _case("eight", "8 readers in 8 containers", _eight),
    _case("noisy-own", "noisy neighbour of 32 threads, own nodes", _noisy("own")),
    _case("noisy-host", "noisy neighbour of 32 threads, host's nodes", _noisy("host")),
    _case("many", "200 containers, 5 files once a second; memory", _many),
)
