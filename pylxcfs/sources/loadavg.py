"""What load averages are made from: the threads of a container that want to run.

For each container whose load was ever asked for, `Sampler` counts the threads in its cgroup and
everything below that are running (R) or in uninterruptible sleep (D), and steps averages.py's
machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

from pylxcfs.errors import Gone, PylxcfsError
from pylxcfs.sources.averages import STEP_NS, Averages, LoadState
from pylxcfs.sources.cgroups import Hierarchies, Paths, Place
from pylxcfs.sources.containers import ContainerSource
from pylxcfs.sources.kept import read_optional, read_whole
from pylxcfs.units import NS_PER_TICK
from pylxcfs.views.model import Load

#: How early a sample may come and count as the next step's.
_SLACK_NS = STEP_NS // 4

#: For how long a count is good for others in the same cgroup.
_SHARED_NS = STEP_NS // 2
_MOST_COUNTS = 1024

#: v1 hierarchies in the order in which they are likely to tell a container from its host.
_V1_HIERARCHIES = ("pids", "memory", "cpu", "cpuacct", "freezer", "name=systemd", "devices")

_RUNNING, _UNINTERRUPTIBLE = b"RD"

#: Enough for the state in a /proc/PID/stat: a pid, and a name of at most 64 bytes before it.
_STAT_SIZE = 256


class Count(NamedTuple):
    """The threads of a cgroup's subtree."""

    running: int
    uninterruptible: int
    total: int
    #: Highest thread id, as the host numbers them; 0 if there is none.
    last: int


class Sampler:
    """Samples the containers of which the load was asked for."""

    def __init__(self, hierarchies: Hierarchies) -> None:
        self._hierarchies = hierarchies
        #: When each cgroup was last counted, and what.
        self._counts: dict[str, tuple[int, Count]] = {}
        self._proc = f"{hierarchies.root.rstrip('/')}/proc"
        #: Called between any two files: who waits for a read comes first.
        self.give_way: Callable[[], object] = lambda: None

    def sample(self, containers: Iterable[ContainerSource], now_ns: int) -> None:
        """Count and step those that are due; call it every 5 seconds, `now_ns` CLOCK_BOOTTIME."""
        for container in containers:
            if container.load_wanted and not container.gone:
                self.give_way()
                try:
                    self._sample(container, now_ns)
                except PylxcfsError:
                    container.sampled = None  # its cgroup ends just now

    def _sample(self, container: ContainerSource, now_ns: int) -> None:
        state = container.load_state
        if state is None:
            state = LoadState(Averages(), now_ns - STEP_NS)
        steps = max(0, (now_ns - state.at_ns + _SLACK_NS) // STEP_NS)
        if steps < 1 and container.sampled is not None:
            return
        count = self._recent_count(container, now_ns)
        if count is None:
            return
        state.averages.advance(count.running + count.uninterruptible, steps)
        state.at_ns += steps * STEP_NS
        container.load_state = state
        if count.last != container.last_thread[0]:
            container.last_thread = count.last, self._pid_inside(count.last)
        container.sampled = Load(
            averages=state.averages.values(),
            running=count.running,
            total=count.total,
            last_pid=container.last_thread[1],
        )

    def count(self, paths: Paths) -> Count | None:
        """Count the threads of a container; None if no hierarchy tells it from its host."""
        place = self._place(paths)
        return None if place is None else self._count(place)

    def _recent_count(self, container: ContainerSource, now_ns: int) -> Count | None:
        """Count once for all that are in a cgroup: it may hold many pid namespaces.

        But what was counted before a container has started is that of one before it, whose cgroup
        had the same path.
        """
        place = self._place(container.paths())
        if place is None:
            return None
        good_ns = max(now_ns - _SHARED_NS, container.started_ns() + NS_PER_TICK)
        known = self._counts.get(place.own)
        if known is None or known[0] <= good_ns:
            if len(self._counts) >= _MOST_COUNTS:
                self._counts.clear()
            known = self._counts[place.own] = now_ns, self._count(place)
        return known[1]

    def _count(self, place: Place) -> Count:
        name = "tasks" if place.version == 1 else "cgroup.threads"
        running = uninterruptible = total = last = 0
        for thread in _threads(place.own, name):
            self.give_way()
            state = self._state(thread)
            if state == _RUNNING:
                running += 1
            elif state == _UNINTERRUPTIBLE:
                uninterruptible += 1
            elif state is None:
                continue
            total += 1
            last = max(last, int(thread))
        return Count(running, uninterruptible, total, last)

    def _place(self, paths: Paths) -> Place | None:
        place = self._hierarchies.unified(paths)
        if place is not None and not place.is_root:
            return place
        for name in _V1_HIERARCHIES:
            place = self._hierarchies.named(name, paths)
            if place is not None and not place.is_root:
                return place
        return None

    def _state(self, thread: str) -> int | None:
        """Return the letter of a thread's state. The hot one: 10,000 of these every 5 seconds."""
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

    def _pid_inside(self, thread: int) -> int:
        """Return a thread's id in its own pid namespace."""
        status = read_optional(f"{self._proc}/{thread}/status") or b""
        _, _, rest = status.partition(b"\nNSpid:")
        ids = rest.partition(b"\n")[0].split()
        return int(ids[-1]) if ids else 0


def _threads(top: str, name: str) -> list[str]:
    """Return the thread ids of a cgroup and of everything below it."""
    threads: list[str] = []
    directories = [top]
    while directories:
        directory = directories.pop()
        try:
            threads += read_whole(f"{directory}/{name}").decode("ascii").split()
            directories += _children(directory)
        except (PylxcfsError, OSError):
            if directory == top:
                raise Gone(f"{top}: it was removed") from None
            # A cgroup below was removed meanwhile, and so had no threads.
    return threads


def _children(directory: str) -> list[str]:
    # A cgroup's directory has a link for each child's "..": without one nothing is to be listed.
    if os.stat(directory).st_nlink == 2:
        return []
    with os.scandir(directory) as entries:
        return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
