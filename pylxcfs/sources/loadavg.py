"""Load averages of containers, from counts of their threads.

For each container of which a reader has asked the load, the sampler counts the threads in its
cgroup and everything below it that run (R) or are in uninterruptible sleep (D), as the kernel's
calc_load_fold_active does for the machine, and steps averages.py.

Threads that v1's freezer has frozen are shown as D, but the kernel does not count them (PF_FROZEN
before Linux 6.1, TASK_FROZEN since then), and neither does the sampler. v2's freezer
(cgroup.freeze) leaves threads in an interruptible sleep, shown as S, which is no load.

A count takes 10 us a thread and 25 us a cgroup, and the container's user decides how many there
are. So it runs in slices, one cgroup after the other in turn, and never in a reader's thread.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from pylxcfs.errors import PylxcfsError
from pylxcfs.formats import pidcgroup
from pylxcfs.sources.averages import STEP_NS, Averages, LoadState
from pylxcfs.sources.background import Attempt, Background, run
from pylxcfs.sources.cgroups import Hierarchies, Place
from pylxcfs.sources.containers import ContainerSource
from pylxcfs.sources.kept import Descriptor, read_optional, read_whole, translate
from pylxcfs.units import NS_PER_S
from pylxcfs.views.model import Load

#: How early a count may come and be the next step's.
_SLACK_NS: Final = STEP_NS // 4
#: How often the sampler checks all containers for a step.
_PERIOD_NS: Final = STEP_NS // 4

#: How long a count is good for other containers in the same cgroup, at least.
_SHARED_NS: Final = STEP_NS // 2
#: A count that took this part of its lifetime in CPU time is repeated so much later.
_CPU_TO_LIFE: Final = 20

#: Share of one CPU's time for all counts.
_SHARE: Final = 0.25
#: Files read in one slice, about 2 ms, and containers checked for a step.
_SLICE_FILES: Final = 128
_SLICE_CONTAINERS: Final = 32

#: Bytes of a list of thread ids that are split at once.
_CHUNK: Final = 8192
#: Enough for the state in a /proc/PID/stat: a pid, and a name of at most 64 bytes before it.
_STAT_SIZE: Final = 256

_RUNNING, _UNINTERRUPTIBLE = b"RD"

#: Device and inode number of a cgroup's directory, which another one of the same path has not.
_Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Count:
    """The threads of a cgroup's subtree."""

    running: int
    uninterruptible: int
    total: int
    #: Highest thread id in the server's pid namespace; 0 without threads.
    last: int


@dataclass(frozen=True, slots=True)
class _Result:
    count: Count
    #: `count.last` in its own pid namespace.
    last_pid: int
    good_until_ns: int


class Counting:
    """A count of one cgroup's subtree in progress.

    `proc` is the directory of processes.
    """

    def __init__(self, place: Place, proc: str, hierarchies: Hierarchies) -> None:
        self._proc = proc
        self._hierarchies = hierarchies
        self._freezes = "freezer" in hierarchies.v1
        #: Whether a freezer cgroup, by its directory, has frozen its threads.
        self._frozen: dict[str, bool] = {}
        self._running = self._uninterruptible = self._total = self._last = 0
        #: Iterates over the files that the count reads, and counts. Raises Gone, SourceError.
        self.files = self._count(place)
        self.cpu_ns = 0
        #: The containers in this cgroup, in the order of their requests.
        self.waiting: dict[ContainerSource, None] = {}

    @property
    def result(self) -> Count:
        """The count so far; it is complete when `files` is exhausted."""
        return Count(self._running, self._uninterruptible, self._total, self._last)

    def _count(self, place: Place) -> Iterator[None]:
        name = "tasks" if place.version == 1 else "cgroup.threads"
        for thread in _threads(place.own, name):
            yield
            state = self._state(thread) if thread else None
            if state is None:
                continue
            self._running += state == _RUNNING
            if state == _UNINTERRUPTIBLE:
                if self._freezes:
                    yield
                if not self._is_frozen(thread):
                    self._uninterruptible += 1
            self._total += 1
            self._last = max(self._last, thread)

    def _is_frozen(self, thread: int) -> bool:
        """Return whether v1's freezer has frozen a thread.

        freezer.state is FROZEN, below a frozen ancestor as well, once all threads are
        (update_if_frozen, kernel/cgroup/legacy_freezer.c); until then they count.
        """
        if not self._freezes:
            return False
        try:
            text = read_whole(f"{self._proc}/{thread}/task/{thread}/cgroup")
            place = self._hierarchies.named("freezer", pidcgroup.parse(text))
        except PylxcfsError:
            return False
        if place is None:
            return False
        known = self._frozen.get(place.own)
        if known is None:
            try:
                known = read_optional(f"{place.own}/freezer.state") == b"FROZEN\n"
            except PylxcfsError:
                known = False
            self._frozen[place.own] = known
        return known

    def _state(self, thread: int) -> int | None:
        """Return the letter of a thread's state (do_task_stat, fs/proc/array.c)."""
        try:
            # The file below task/ is the thread's alone; the one above sums its whole process.
            descriptor = os.open(f"{self._proc}/{thread}/task/{thread}/stat", os.O_RDONLY)
        except OSError:
            return None
        try:
            data = os.read(descriptor, _STAT_SIZE)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        # The state follows the name, which may itself hold parentheses.
        end = data.rfind(b") ") + 2
        return data[end] if 2 <= end < len(data) else None


class Sampler:
    """Steps the load averages of containers every 5 seconds.

    `give_way` is called before each file that is read, and may wait for readers to be served.
    `attempt` keeps an error from ending the thread; `now_ns` returns CLOCK_MONOTONIC:
    while the host is suspended no step is due, as in the kernel, and averages do not change.
    """

    def __init__(
        self,
        hierarchies: Hierarchies,
        give_way: Callable[[], object] = lambda: None,
        attempt: Attempt = run,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._hierarchies = hierarchies
        self._proc = f"{hierarchies.root.rstrip('/')}/proc"
        self._give_way = give_way
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._wanted: dict[ContainerSource, None] = {}
        #: Containers to check for a step.
        self._queue: deque[ContainerSource] = deque()
        self._next_check_ns = 0
        #: Counts in progress, in turn, and the last one of each cgroup.
        self._countings: OrderedDict[_Key, Counting] = OrderedDict()
        self._results: dict[_Key, _Result] = {}
        self._background = Background(
            "loadavg", self.steps, share=_SHARE, period=self._period_s, attempt=attempt
        )

    def want(self, container: ContainerSource) -> None:
        """Sample a container for as long as it lives; for any thread."""
        with self._lock:
            if container in self._wanted:
                return
            self._wanted[container] = None
            self._queue.append(container)
        self._background.request()

    def start(self) -> None:
        """Start the thread that counts."""
        self._background.start()

    def settle(self, timeout_s: float) -> bool:
        """Wait until no count is due; return False after the timeout."""
        return self._background.settle(timeout_s)

    def close(self) -> None:
        """End the thread."""
        self._background.close()

    def steps(self) -> Iterator[None]:
        """Count and step until nothing is due; each item ends a slice."""
        while True:
            self._queue_all()
            for _ in range(min(_SLICE_CONTAINERS, len(self._queue))):
                self._check(self._queue.popleft())
            if self._countings:
                self._continue_one()
            elif not self._queue:
                return
            yield

    def _period_s(self) -> float | None:
        return _PERIOD_NS / NS_PER_S if self._wanted else None

    def _queue_all(self) -> None:
        """Queue all containers if it is time, and forget old counts."""
        now_ns = self._now_ns()
        if now_ns < self._next_check_ns:
            return
        self._next_check_ns = now_ns + _PERIOD_NS
        for key, result in list(self._results.items()):
            if result.good_until_ns + 2 * STEP_NS < now_ns:
                del self._results[key]
        with self._lock:
            self._queue = deque(self._wanted)

    def _check(self, container: ContainerSource) -> None:
        """Step a container by a recent count, or begin to count."""
        now_ns = self._now_ns()
        if container.gone:
            self._drop(container)
            return
        if container.sampled is not None and _steps_due(container, now_ns) == 0:
            return
        try:
            place = self._hierarchies.thread_place(container.paths())
            if place is None:
                container.sampled = None  # the host's load is the container's
                return
            key = _key(place.own)
        except PylxcfsError:
            self._drop(container)  # its cgroup or init has ended
            return
        known = self._results.get(key)
        if known is not None and now_ns < known.good_until_ns:
            self._step(container, known, now_ns)
            return
        counting = self._countings.get(key)
        if counting is None:
            counting = self._countings[key] = Counting(place, self._proc, self._hierarchies)
        counting.waiting[container] = None

    def _drop(self, container: ContainerSource) -> None:
        with self._lock:
            self._wanted.pop(container, None)
            container.load_wanted = False
            container.sampled = None

    def _continue_one(self) -> None:
        """Do a slice of the count that has waited longest."""
        key, counting = self._countings.popitem(last=False)
        # Pid namespaces may come and go by the thousand while a large cgroup is counted.
        counting.waiting = {one: None for one in counting.waiting if not one.gone}
        if not counting.waiting:
            return
        began_ns = time.thread_time_ns()
        try:
            files = 0
            for _ in islice(counting.files, _SLICE_FILES):
                files += 1
                self._give_way()
        except PylxcfsError:
            for container in counting.waiting:
                container.sampled = None
            return
        counting.cpu_ns += time.thread_time_ns() - began_ns
        if files == _SLICE_FILES:
            self._countings[key] = counting
            return
        now_ns = self._now_ns()
        life_ns = max(_SHARED_NS, counting.cpu_ns * _CPU_TO_LIFE)
        known = self._results.get(key)
        count = counting.result
        if known is not None and known.count.last == count.last:
            last_pid = known.last_pid
        else:
            last_pid = self._pid_inside(count.last)
        result = self._results[key] = _Result(count, last_pid, now_ns + life_ns)
        for container in counting.waiting:
            self._step(container, result, now_ns)

    @staticmethod
    def _step(container: ContainerSource, result: _Result, now_ns: int) -> None:
        """Bring a container's averages to `now_ns`."""
        count = result.count
        state = container.load_state or LoadState(Averages(), now_ns - STEP_NS)
        steps = _steps_due(container, now_ns)
        averages = state.averages.after(count.running + count.uninterruptible, steps)
        container.load_state = LoadState(averages, state.at_ns + steps * STEP_NS)
        container.sampled = Load(averages.values(), count.running, count.total, result.last_pid)

    def _pid_inside(self, thread: int) -> int:
        """Return a thread's id in its own pid namespace (NSpid, proc_pid_status)."""
        status = read_optional(f"{self._proc}/{thread}/status") or b""
        _, _, rest = status.partition(b"\nNSpid:")
        ids = rest.partition(b"\n")[0].split()
        return int(ids[-1]) if ids else 0


def _steps_due(container: ContainerSource, now_ns: int) -> int:
    """Return how many steps of 5 seconds a container's averages are behind."""
    state = container.load_state
    if state is None:
        return 1
    return max(0, (now_ns - state.at_ns + _SLACK_NS) // STEP_NS)


def _key(directory: str) -> _Key:
    try:
        found = os.stat(directory)
    except OSError as error:
        raise translate(error, directory) from None
    return found.st_dev, found.st_ino


def _threads(top: str, name: str) -> Iterator[int]:
    """Yield the thread ids of a cgroup and all below it.

    They are in the files `name`; for each file there is a 0, too. Raise Gone if the cgroup itself
    ends. Cgroups below it may come and go meanwhile.
    """
    yield from _ids(f"{top}/{name}")
    pending = [top] if _has_children(top) else []
    while pending:
        try:
            entries = os.scandir(pending.pop())
        except OSError:
            continue
        # One by one: a cgroup may have 100,000 children.
        with entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    continue
                try:
                    yield from _ids(f"{entry.path}/{name}")
                    if _has_children(entry.path):
                        pending.append(entry.path)
                except PylxcfsError:
                    continue  # it was removed, and so had no threads


def _ids(path: str) -> Iterator[int]:
    try:
        descriptor = Descriptor.open(path)
        yield 0
        rest = b""
        while chunk := os.read(descriptor.number, _CHUNK):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from map(int, lines)
    except OSError as error:
        raise translate(error, path) from None


def _has_children(directory: str) -> bool:
    """Return whether a cgroup has children.

    Its directory has a link for the ".." of each.
    """
    try:
        return os.stat(directory).st_nlink != 2
    except OSError as error:
        raise translate(error, directory) from None
