"""Finds a process of a container.

For requests that come from another process. A background thread walks /proc and keeps a map from
namespaces to a process of each. A reader's thread only looks into the map: a walk takes a second on
a host with 100,000 processes. Knows no container and no cgroup.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from pylxcfs.sources.background import Attempt, Background, run
from pylxcfs.sources.identity import Identity, cgroupns_of, pidns_of

#: Share of one CPU's time for walks.
_SHARE: Final = 0.05
#: Processes between two pauses.
_SLICE: Final = 64
#: Namespaces that are kept. An ordinary user may make tens of thousands of them.
_MOST: Final = 16384


class ProcessSearch:
    """A map from namespaces to processes.

    Walks of `proc`, the directory of processes, refresh it in the background.
    """

    def __init__(self, proc: str = "/proc", attempt: Attempt = run) -> None:
        self._proc = proc
        self._pids: dict[Identity, int] = {}
        self._background = Background("search", self._walk, share=_SHARE, attempt=attempt)

    def start(self) -> None:
        """Start the thread, with one walk."""
        self._background.request()
        self._background.start()

    def find(self, identity: Identity) -> int:
        """Return the pid of a process in these namespaces.

        0, and a walk is due, if none is known. With a `cgroupns` of 0 any process in the pid
        namespace will do.
        """
        pid = self._pids.get(identity, 0)
        if (
            pid
            and pidns_of(pid, self._proc) == identity.pidns
            and identity.cgroupns in (0, cgroupns_of(pid, self._proc))
        ):
            return pid
        self._background.request()
        return 0

    def settle(self, timeout_s: float) -> bool:
        """Wait until no walk is due; return False after the timeout."""
        return self._background.settle(timeout_s)

    def close(self) -> None:
        """End the thread."""
        self._background.close()

    def _walk(self) -> Iterator[None]:
        """Enter each process, and drop at the end those not seen."""
        seen: dict[Identity, int] = {}
        try:
            entries = os.scandir(self._proc)
        except OSError:
            return
        with entries:
            for number, entry in enumerate(filter(_is_process, entries)):
                pid = int(entry.name)
                pidns = pidns_of(pid, self._proc)
                if pidns and len(seen) < _MOST:
                    for key in (pidns, 0), (pidns, cgroupns_of(pid, self._proc)):
                        # The first one has the lowest pid, and most likely the longest life.
                        if seen.setdefault(Identity(*key), pid) == pid:
                            self._pids[Identity(*key)] = pid
                if number % _SLICE == _SLICE - 1:
                    yield
        self._pids = seen


def _is_process(entry: os.DirEntry[str]) -> bool:
    return entry.name.isdecimal()
