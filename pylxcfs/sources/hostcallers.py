"""Processes in the server's own pid namespace.

They are the host's and those of `--pid=host` containers. Each sees its own cgroup. Without a limit
on that, it sees the host's files.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from pylxcfs.errors import PylxcfsError
from pylxcfs.sources.cgroups import Hierarchies
from pylxcfs.sources.containers import ContainerSource
from pylxcfs.sources.kept import read_whole
from pylxcfs.sources.procfs import HostFiles
from pylxcfs.views.model import CpuLimit, Memory

#: Cgroups that are kept, each with some 20 descriptors.
_MAX_KNOWN = 16


class HostCallers:
    """Containers by the text of /proc/PID/cgroup; at most `most` of them are kept."""

    def __init__(self, hierarchies: Hierarchies, host: HostFiles, most: int = _MAX_KNOWN) -> None:
        self._most = min(most, _MAX_KNOWN)
        self._hierarchies = hierarchies
        self._host = host
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, ContainerSource] = OrderedDict()

    def get(self, pid: int) -> ContainerSource | None:
        """Return a process's cgroup as a container; None if nothing limits it."""
        if pid <= 0:
            return None
        try:
            container = self.of_cgroups(read_whole(self._hierarchies.cgroup_file(pid)))
            return container if self._limited(container) else None
        except PylxcfsError:
            return None

    def of_cgroups(self, text: bytes) -> ContainerSource:
        """Return the cgroups in a text of /proc/PID/cgroup, limited or not. Raise Gone."""
        container = self._known.get(text)
        if container is None or container.gone:
            container = ContainerSource(self._hierarchies, paths=self._hierarchies.paths_in(text))
            with self._lock:
                self._known[text] = container
                if len(self._known) > self._most:
                    self._known.popitem(last=False)
        return container

    def close(self) -> None:
        """Drop all of them."""
        with self._lock:
            self._known.clear()

    def _limited(self, container: ContainerSource) -> bool:
        limit = container.cpu_limit()
        return limits_cpus(limit, self._host.online_cpus()) or limits_memory(container.memory())


def limits_cpus(limit: CpuLimit, online: tuple[int, ...]) -> bool:
    """Return whether a process with this limit has less than the machine's CPUs."""
    if limit.quota is not None:
        return True
    return limit.cpuset is not None and not limit.cpuset.issuperset(online)


def limits_memory(memory: Memory | None) -> bool:
    """Return whether there is a limit on memory or swap."""
    return memory is not None and (memory.limit is not None or memory.swap_limit is not None)
