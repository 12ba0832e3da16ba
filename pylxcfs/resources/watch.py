"""Changes of limits, as the kernel reports writes to the files of cgroups (inotify).

Nothing is polled. Not reported are changes without a write that this process can see: a process
that is moved to another cgroup, and limits of levels above what is mounted. They show at the next
change. The kernel reports neither the new files of a v2 controller that the parent enables, nor the
change of cgroup.controllers: so cgroup.subtree_control of the levels above is watched.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from typing import NamedTuple

from pylxcfs.errors import Gone
from pylxcfs.resources.model import Resources
from pylxcfs.resources.query import Query
from pylxcfs.sources.kept import Descriptor
from pylxcfs.sources.registry import has_ended
from pylxcfs.sources.settings import Watch, out_of


class Change(NamedTuple):
    """The resources after a change."""

    resources: Resources
    #: Names of limits that changed, as in "memory.limit_bytes".
    changed: tuple[str, ...]


class Watched:
    """The limits of one process, for the owner of a query."""

    def __init__(self, query: Query, pid: int) -> None:
        """Raise Gone, SourceError, FormatError."""
        self._query, self._pid = query, pid
        self._watches: list[Watch] = []
        self._writes = 0
        self.resources = self._read()

    def take_writes(self) -> bool:
        """Take the events of inotify; return whether a limit was written since the last look."""
        self._query.hierarchies.writes.look()
        return self._writes != self._written()

    def look(self) -> Change | None:
        """Return what has changed since the last look. Raise Gone, SourceError, FormatError."""
        before = self.resources.limits()
        self.resources = self._read()
        after = self.resources.limits()
        names = {**before, **after}  # huge pages of a size have a limit with their controller alone
        changed = tuple([name for name in names if before.get(name) != after.get(name)])
        return Change(self.resources, changed) if changed else None

    def _read(self) -> Resources:
        writes = self._query.hierarchies.writes
        container, _ = self._query.find(self._pid)
        container.recheck()
        sizes = self._query.huge_page_sizes()
        files = container.read(lambda readers: readers.limit_files(sizes))
        # Each time: files of v2 come and go with their controllers. A file has one watch.
        watches = [writes.watch(file, needed=True) for file in files]
        self._watches = [one for one in watches if one is not None]
        # Counted before the files are read: a write in between makes the next look due.
        writes.look()
        self._writes = self._written()
        return self._query.of(self._pid)

    def _written(self) -> int:
        return sum([watch.writes for watch in self._watches])


def watch(pid: int | None = None, *, query: Query | None = None) -> Iterator[Change]:
    """Yield the resources of a process as they are, and again after each change of a limit.

    `pid`: by default this process. `query`: nobody else's, closed at the end. The first item has no
    names. Ends with the process. Raise Gone, SourceError or FormatError, SourceError also where the
    user has no inotify instance or watch left.
    """
    pid = pid or os.getpid()
    query = query or Query()
    try:
        writes = query.hierarchies.writes
        if writes.fileno() < 0:
            raise out_of("instances")
        try:
            pidfd = Descriptor(os.pidfd_open(pid))
        except (OSError, OverflowError) as error:
            raise Gone(f"process {pid}: {error}") from None
        watched = Watched(query, pid)
        change: Change | None = Change(watched.resources, ())
        poller = select.poll()
        poller.register(writes.fileno(), select.POLLIN)
        poller.register(pidfd.number, select.POLLIN)
        while True:
            if has_ended(pidfd):  # before that read its pid may have become another process's
                return
            if change is not None:
                yield change
            while not watched.take_writes():
                if pidfd.number in dict(poller.poll()):
                    return
            try:
                change = watched.look()
            except Gone:
                if has_ended(pidfd):
                    return
                raise
    finally:
        query.close()
