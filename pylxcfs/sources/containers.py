"""One container as views see it.

Reads the cgroup of its init at each call, notices when init was moved to another cgroup, and keeps
the container's ledger and load averages. The files of a cgroup are in readers.py, the table of
containers in registry.py.

The container is the root of init's cgroup namespace where that is not the server's own. Else it is
the cgroup in which init was first seen: dind, k3s, OpenRC and systemd with delegated cgroups move
their init into a leaf, which does not narrow the container.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from pylxcfs.errors import Gone, PylxcfsError, SourceError
from pylxcfs.formats import pidstat, timens
from pylxcfs.sources.averages import LoadState
from pylxcfs.sources.cgroups import Hierarchies, Paths
from pylxcfs.sources.kept import PinnedFile, read_optional, read_whole
from pylxcfs.sources.readers import Readers
from pylxcfs.units import NS_PER_TICK
from pylxcfs.views.model import BlockIO, CpuLimit, CpuUsage, Device, Ledger, Load, Memory

#: Seconds after which init's cgroup is read again.
_RECHECK_SECONDS = 1.0

#: Asks for a container's load averages to be sampled (loadavg.Sampler.want).
WantLoad = Callable[["ContainerSource"], None]

#: Returns the roots of init's cgroup namespace by controller, as far as there are any.
RootsOf = Callable[[], Paths]

_T = TypeVar("_T")


class ContainerSource:
    """A container: the cgroups of process `init`, or those that `paths` names.

    With `init`, /proc/INIT/cgroup is opened and /proc/INIT/stat read at once: the caller checks
    afterwards that the pid is still the same process, and `roots_of` is called when init's cgroups
    have changed. Without it, `epoch` (clock ticks), `started_ns` and `clock_offset_ns` are given.
    `want_load` is called once a view asks for the load averages; without it load() returns None.
    """

    def __init__(
        self,
        hierarchies: Hierarchies,
        *,
        init: int | None = None,
        paths: Paths | None = None,
        epoch: int = 0,
        started_ns: int = 0,
        clock_offset_ns: int = 0,
        roots_of: RootsOf = dict,
        want_load: WantLoad | None = None,
    ) -> None:
        self.ledger = Ledger()
        #: How often a file was rendered for it.
        self.renderings = 0
        #: True once its cgroup or init has ended: look the container up again.
        self.gone = False
        #: True while its descriptors are given up for another's.
        self.released = False
        #: A view has asked for load averages, and the sampler sets `sampled`.
        self.load_wanted = False
        self.sampled: Load | None = None
        #: Its load averages, which the sampler steps and the next server takes over.
        self.load_state: LoadState | None = None
        self._want_load = want_load
        self._hierarchies = hierarchies
        self._follow: PinnedFile | None = None
        self._text = b""
        self._paths: Paths = paths or {}
        self._roots_of = roots_of
        #: Where init was seen before; None until something else than `warm` has asked.
        self.seen_at: Paths | None = None
        #: Its init is in a cgroup below its own.
        self.init_is_below = False
        if init is not None:
            self._follow = PinnedFile(hierarchies.cgroup_file(init))
            epoch = start_ticks_of(hierarchies.root, init)
            started_ns = epoch * NS_PER_TICK
        self._epoch = epoch
        self._started_ns = started_ns
        self._init = init
        self._clock_offset_ns = clock_offset_ns
        self._recheck_clock = 0.0
        self._readers: Readers | None = None
        self._recheck = 0.0

    @property
    def epoch(self) -> int:
        """Start of the pid namespace's init in clock ticks (USER_HZ); never changes.

        Tells successive namespaces that have the same inode number apart. 0 for host processes.
        """
        return self._epoch

    # For views, which read views.model.Container. Each method raises Gone or SourceError.

    def memory(self) -> Memory | None:
        """Return limits and usage of memory and swap; None without the controller."""
        return self.read(Readers.memory)

    def cpu_limit(self) -> CpuLimit:
        """Return its CPUs and its quota."""
        return self.read(Readers.cpu_limit)

    def cpu_usage(self) -> CpuUsage | None:
        """Return its CPU time; None where it is not counted."""
        return self.read(Readers.cpu_usage)

    def block_io(self) -> Mapping[tuple[int, int], BlockIO] | None:
        """Return its I/O by (major, minor); None where not counted."""
        return self.read(Readers.block_io)

    def pressure(self, resource: str) -> bytes | None:
        """Return the text of RESOURCE.pressure; None on v1 or with PSI off."""
        return self.read(lambda readers: readers.pressure(resource))

    def slabinfo(self) -> bytes | None:
        """Return the text of v1's memory.kmem.slabinfo; None without it."""
        return self.read(Readers.slabinfo)

    def mems(self) -> frozenset[int] | None:
        """Return its NUMA nodes; None without the cpuset controller."""
        return self.read(Readers.mems)

    def may_open(self, devices: Iterable[Device]) -> frozenset[Device] | None:
        """Return those of some devices that it may open; None: all."""
        return self.read(lambda readers: readers.may_open(devices))

    def started_ns(self) -> int:
        """Return the CLOCK_BOOTTIME at which it started; 0 for host processes."""
        return self._started_ns

    def clock_offset_ns(self) -> int:
        """Return by how much its CLOCK_BOOTTIME is ahead of the server's, at most a second old."""
        now = time.monotonic()
        if self._init is not None and now >= self._recheck_clock:
            # A runtime may move init to its time namespace late.
            self._clock_offset_ns = clock_offset_of(self._hierarchies.root, self._init)
            self._recheck_clock = now + _RECHECK_SECONDS
        return self._clock_offset_ns

    def load(self) -> Load | None:
        """Return the last sample, or an estimate before the first one.

        The estimate is the threads of pids.current, one of them running, and the averages of the
        server before this one, or 0. None where the host's load is the container's.
        """
        if self._want_load is None:
            return None
        self._ask_for_load()
        if self.sampled is not None:
            return self.sampled
        total = self.read(Readers.threads)
        if self._hierarchies.thread_place(self._paths) is None:
            return None
        state = self.load_state
        averages = (0.0, 0.0, 0.0) if state is None else state.averages.values()
        return Load(averages, running=1, total=total or 1, last_pid=1)

    # For the rest of sources

    def take_over_load(self, state: LoadState) -> None:
        """Go on with load averages of the server before this one."""
        self.load_state = state
        self._ask_for_load()

    def paths(self) -> Paths:
        """Return its cgroups as they are now; opens no file of theirs.

        Raise Gone if its init has ended.
        """
        self._follow_init()
        return self._paths

    @property
    def is_open(self) -> bool:
        """Whether it has files of its cgroup open, from an earlier read."""
        return self._readers is not None

    def read(self, get: Callable[[Readers], _T]) -> _T:
        """Return what `get` says of its cgroup as it is now. Raise Gone, SourceError."""
        try:
            return get(self._current())
        except Gone:
            # The cgroup has ended, but was init in it? If it was moved it is elsewhere now.
            self._readers = None
        try:
            return get(self._current())
        except Gone:
            self.gone = True
            raise

    def warm(self) -> None:
        """Open the files that views read, and watch the limits.

        The runtime may not have moved init to its cgroup yet, so the next call checks that.
        """
        seen_at = self.seen_at
        # Settings are watched from the second read on.
        for ask in (self.memory, self.memory, self.cpu_limit, self.cpu_limit, self.cpu_usage):
            with contextlib.suppress(PylxcfsError):
                ask()
        with contextlib.suppress(PylxcfsError):
            self.block_io()
        self._recheck = 0.0
        self._text, self.seen_at = b"", seen_at

    def recheck(self) -> None:
        """Have the next call check where init is and which controllers its cgroup has."""
        self._recheck = 0.0

    def release(self) -> None:
        """Close its cgroup's files; the next call opens what it needs."""
        self.released = True
        self._readers = None

    def _ask_for_load(self) -> None:
        if self._want_load is not None and not self.load_wanted:
            self.load_wanted = True
            self._want_load(self)

    def _current(self) -> Readers:
        readers = self._readers
        now = time.monotonic()
        if readers is not None and now < self._recheck:
            return readers
        if self._follow_init() or readers is None or readers.outdated():
            readers = self._readers = Readers(self._hierarchies, self._paths)
        self._recheck = now + _RECHECK_SECONDS
        return readers

    def _follow_init(self) -> bool:
        """Read init's cgroups; return whether they have changed."""
        if self._follow is None or self._init is None:
            return False
        try:
            text = self._follow.read()
            if text != self._text:
                text = self._hierarchies.living(self._init, text)
                self._follow.read()  # Gone if the pid may be another's by now
        except Gone:
            raise
        except SourceError:
            # ENAMETOOLONG: a path of more than 4096 bytes, far below where init was before.
            if not self._paths:
                raise
            return False
        if text == self._text:
            return False
        found = self._hierarchies.paths_in(text)
        paths = self._own_cgroups(found)
        self.init_is_below = paths != found
        self._text, self.seen_at = text, paths
        if paths == self._paths:
            return False
        self._paths = paths
        self._readers = None
        return True

    def _own_cgroups(self, paths: Paths) -> Paths:
        """Return the container's cgroups for those that its init is in now."""
        above = {**(self.seen_at or {}), **self._roots_of()}
        return {
            name: above[name] if _is_below(path, above.get(name, "/")) else path
            for name, path in paths.items()
        }


def _is_below(path: str, other: str) -> bool:
    # The root is no container: init was seen there, or given a namespace, before it was moved.
    return other != "/" and path.startswith(f"{other}/")


def start_ticks_of(root: str, pid: int) -> int:
    """Return the CLOCK_BOOTTIME at which a process started, in clock ticks (USER_HZ)."""
    return pidstat.parse(read_whole(f"{root.rstrip('/')}/proc/{pid}/stat")).start_ticks


def clock_offset_of(root: str, pid: int) -> int:
    """Return by how much CLOCK_BOOTTIME of a process is ahead of the server's, in nanoseconds.

    0 if it has ended, and on kernels without time namespaces.
    """
    base = f"{root.rstrip('/')}/proc"
    texts = [read_optional(f"{base}/{name}/timens_offsets") for name in (pid, "self")]
    theirs, ours = [timens.boottime_ns(text) if text else 0 for text in texts]
    return theirs - ours if texts[0] else 0
