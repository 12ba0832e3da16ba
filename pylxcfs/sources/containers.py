"""One container as views see it: the cgroup of its init, read anew at each call.

Notices when init was moved to another cgroup, and keeps what belongs to the container: its
ledger, its load averages. What files there are is readers.py's business, who is in which
container registry.py's.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from pylxcfs.errors import Gone, PylxcfsError
from pylxcfs.formats import pidstat
from pylxcfs.sources.averages import LoadState
from pylxcfs.sources.cgroups import Hierarchies, Paths
from pylxcfs.sources.kept import PinnedFile, read_whole
from pylxcfs.sources.readers import Readers
from pylxcfs.units import NS_PER_TICK
from pylxcfs.views.model import BlockIO, CpuLimit, CpuUsage, Ledger, Load, Memory

#: Seconds for which a container's cgroup is believed to be the one it was in.
_RECHECK_SECONDS = 1.0

_T = TypeVar("_T")


class ContainerSource:
    """A container: the cgroups that process `init` is in, or those that `paths` names.

    With `init`, two things are opened and read at once: who makes this must know that the pid
    is still the one that was meant when this is done.
    """

    def __init__(
        self,
        hierarchies: Hierarchies,
        *,
        init: int | None = None,
        paths: Paths | None = None,
        started_ns: int = 0,
    ) -> None:
        self.ledger = Ledger()
        #: True once its cgroup or init has ended: whoever holds it should ask for another.
        self.gone = False
        #: True once its descriptors were given up for another's, until it is asked for again.
        self.released = False
        #: A view has asked for load averages; sources/loadavg.py samples those and sets `sampled`.
        self.load_wanted = False
        self.sampled: Load | None = None
        #: Its highest thread at the last sample, and that one's number inside.
        self.last_thread = 0, 0
        #: Called while there is no sample yet, so that the first reader need not wait for one.
        self.on_load_wanted: Callable[[ContainerSource], None] | None = None
        #: The sampler's memory of it; a restarted daemon puts back what it saved.
        self.load_state: LoadState | None = None
        self._hierarchies = hierarchies
        self._follow: PinnedFile | None = None
        self._text = b""
        self._paths: Paths = paths or {}
        self._started_ns = started_ns
        if init is not None:
            self._follow = PinnedFile(hierarchies.cgroup_file(init))
            self._started_ns = start_of(hierarchies.root, init)
        self._readers: Readers | None = None
        self._recheck = 0.0

    # What views ask (views.model.Container)

    def memory(self) -> Memory | None:
        return self._read(Readers.memory)

    def cpu_limit(self) -> CpuLimit:
        return self._read(Readers.cpu_limit)

    def cpu_usage(self) -> CpuUsage | None:
        return self._read(Readers.cpu_usage)

    def block_io(self) -> Mapping[tuple[int, int], BlockIO] | None:
        return self._read(Readers.block_io)

    def pressure(self, resource: str) -> bytes | None:
        return self._read(lambda readers: readers.pressure(resource))

    def slabinfo(self) -> bytes | None:
        return self._read(Readers.slabinfo)

    def mems(self) -> frozenset[int] | None:
        return self._read(Readers.mems)

    def started_ns(self) -> int:
        return self._started_ns

    def load(self) -> Load | None:
        self.load_wanted = True
        if self.sampled is None and self.on_load_wanted is not None:
            self.on_load_wanted(self)
        return self.sampled

    # What the rest of sources asks

    def paths(self) -> Paths:
        """Return its cgroups as they are now. Gone if they have ended."""
        self._current()
        return self._paths

    @property
    def is_open(self) -> bool:
        """Whether it has been asked for anything, and so has its cgroup's files open."""
        return self._readers is not None

    def warm(self) -> None:
        """Open the files that views will ask for, and watch the limits.

        Its init may still be on its way to its cgroup, so the next call looks where it is.
        """
        # Settings are watched from the second time on.
        for ask in (self.memory, self.memory, self.cpu_limit, self.cpu_limit, self.cpu_usage):
            with contextlib.suppress(PylxcfsError):
                ask()
        with contextlib.suppress(PylxcfsError):
            self.block_io()
        self._recheck = 0.0

    def release(self) -> None:
        """Give up the descriptors of its cgroup's files; the next call opens what it needs."""
        self.released = True
        self._readers = None

    def _read(self, get: Callable[[Readers], _T]) -> _T:
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

    def _current(self) -> Readers:
        readers = self._readers
        now = time.monotonic()
        if readers is not None and now < self._recheck:
            return readers
        if self._follow is not None:
            text = self._follow.read()
            if text != self._text:
                self._paths = self._hierarchies.paths_in(text)
                self._text = text
                readers = None
        if readers is None or readers.outdated():
            readers = self._readers = Readers(self._hierarchies, self._paths)
        self._recheck = now + _RECHECK_SECONDS
        return readers


def start_of(root: str, pid: int) -> int:
    """Return the CLOCK_BOOTTIME at which a process started, in nanoseconds."""
    stat = pidstat.parse(read_whole(f"{root.rstrip('/')}/proc/{pid}/stat"))
    return stat.start_ticks * NS_PER_TICK
