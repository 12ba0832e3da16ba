"""The table of containers: from a caller to its container.

An entry lives as long as its namespace's init: a pidfd in an epoll becomes readable when init
ends, and only after that can the inode number be another namespace's. Nothing here raises: for a
caller that cannot be identified the result is None, and the host's file is served.

The lock guards the tables and is never held during a system call that may take long; two threads
may make the same entry, and one of the two is kept.
"""

from __future__ import annotations

import os
import select
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from pylxcfs.errors import PylxcfsError
from pylxcfs.sources.background import Attempt, run
from pylxcfs.sources.cgroups import Hierarchies, Paths
from pylxcfs.sources.containers import ContainerSource, WantLoad
from pylxcfs.sources.hostcallers import HostCallers
from pylxcfs.sources.identity import Identity, cgroupns_of, pidns_of
from pylxcfs.sources.initpid import InitFinder
from pylxcfs.sources.kept import Descriptor
from pylxcfs.sources.procfs import HostFiles
from pylxcfs.sources.search import ProcessSearch
from pylxcfs.sources.siblings import Sibling, namespace_roots

#: Entries for each container that may keep files open. An entry itself has two descriptors (pidfd
#: and /proc/INIT/cgroup). One that is dropped is made again at its next request.
_KNOWN_PER_OPEN = 3

#: Cgroup namespaces told apart inside one pid namespace: more than a pod has containers, and a
#: bound on the cost of a program that makes namespaces in a loop.
_MAX_SIBLINGS = 64

#: Ended containers that one `reap` drops: each may have two dozen descriptors to close, and a
#: container may end a thousand nested namespaces at once.
_REAPED = 16

OnNew = Callable[[Identity, ContainerSource], None]


@dataclass(slots=True)
class _Init:
    """A pid namespace: its init, and the containers in it."""

    pid: int
    pidfd: Descriptor
    container: ContainerSource
    #: Its cgroup namespace when last read.
    cgroupns: int = 0
    siblings: OrderedDict[int, Sibling] = field(default_factory=OrderedDict)


class Registry:
    """The containers that were looked up and still live.

    `max_containers`: the most containers that keep files of their cgroup open. `want_load`: given
    to each container (Sampler.want). `on_new`: called with each new container before any other
    thread sees it; it must be quick. `attempt`: keeps an error from ending the search's thread.
    """

    def __init__(
        self,
        hierarchies: Hierarchies,
        host: HostFiles,
        init_finder: InitFinder,
        max_containers: int = 512,
        *,
        want_load: WantLoad | None = None,
        on_new: OnNew | None = None,
        attempt: Attempt = run,
    ) -> None:
        self._hierarchies = hierarchies
        self._finder = init_finder
        self._max_open = max_containers
        self._want_load = want_load
        self._on_new = on_new
        self._proc = f"{hierarchies.root.rstrip('/')}/proc"
        self._own_pidns = pidns_of(os.getpid())
        self._own_cgroupns = cgroupns_of(os.getpid())
        self._lock = threading.Lock()
        self._epoll = select.epoll()
        self._inits: OrderedDict[int, _Init] = OrderedDict()
        self._by_pidfd: dict[int, int] = {}
        self._recent: OrderedDict[Identity, ContainerSource] = OrderedDict()
        #: The container that was looked up last, which is at the end of the tables.
        self._newest: ContainerSource | None = None
        self._host_callers = HostCallers(hierarchies, host)
        self._search = ProcessSearch(self._proc, attempt)

    def start(self) -> None:
        """Start the thread that `search` relies on, with one walk of /proc."""
        self._search.start()

    @property
    def host_identity(self) -> Identity:
        """The identity of processes in the server's own pid namespace."""
        return Identity(self._own_pidns, 0)

    def identify(self, pid: int) -> Identity | None:
        """Return the identity of a process or thread.

        None if its namespaces cannot be read.
        """
        pidns = pidns_of(pid, self._proc) if pid > 0 else 0
        if pidns == 0:
            return None
        if pidns == self._own_pidns:
            return Identity(pidns, 0)
        cgroupns = cgroupns_of(pid, self._proc)
        if cgroupns in (0, self._own_cgroupns):
            return Identity(pidns, 0)
        init = self._living(pidns) or self._add(pidns, pid)
        if init is None or init.cgroupns == cgroupns:
            return Identity(pidns, 0)
        # Runtimes give the init its cgroup namespace late, so it may have another one by now.
        init.cgroupns = cgroupns_of(init.pid, self._proc)
        return Identity(pidns, 0 if init.cgroupns in (0, cgroupns) else cgroupns)

    def get(self, identity: Identity, pid: int) -> ContainerSource | None:
        """Return the container `identity`; None if it cannot be found.

        `pid` is a thread in its pid namespace or in a descendant of that. 0 is enough for a
        container that is in the table.
        """
        if identity.pidns == self._own_pidns:
            return self.host_caller(pid)
        init = self._living(identity.pidns) or self._add(identity.pidns, pid)
        if init is None:
            return None
        container = init.container
        if container.gone:
            with self._lock:
                # Its init lives, so it has a cgroup, even if an earlier one has ended.
                container.gone = self._inits.get(identity.pidns) is not init
        if identity.cgroupns:
            sibling = init.siblings.get(identity.cgroupns)
            if sibling is None and pid <= 0:
                return None
            if sibling is None or sibling.container.gone:
                sibling = self._add_sibling(init, identity, pid)
            if sibling is not None:
                container = sibling.container
        self._touch(identity, container)
        return container

    def knows(self, identity: Identity) -> bool:
        """Return whether a container is in the table, or is the host."""
        return identity.pidns == self._own_pidns or self._known(identity) is not None

    def is_open(self, identity: Identity) -> bool:
        """Return whether a container's files are open, or it is the host."""
        if identity.pidns == self._own_pidns:
            return True
        container = self._known(identity)
        return container is not None and container.is_open

    def host_caller(self, pid: int) -> ContainerSource | None:
        """Return a host process's own cgroup; None if nothing limits it."""
        return self._host_callers.get(pid)

    def search(self, identity: Identity) -> int:
        """Return the pid of a container's process; 0 if none is known.

        For a request that names a container by key and comes from elsewhere. Looks into the map
        of the last walk of /proc only; after a 0 the next walk is due.
        """
        return self._search.find(identity)

    def settle(self, timeout_s: float) -> bool:
        """Wait until no walk is due; return False after the timeout."""
        return self._search.settle(timeout_s)

    def containers(self) -> list[tuple[Identity, ContainerSource]]:
        """Return all containers in the table, without host processes."""
        with self._lock:
            known = [(Identity(ns, 0), init.container) for ns, init in self._inits.items()]
            for ns, init in self._inits.items():
                for cgroupns, sibling in init.siblings.items():
                    known.append((Identity(ns, cgroupns), sibling.container))
        return known

    def fileno(self) -> int:
        """Return a descriptor that is readable when `reap` has something to do."""
        return self._epoll.fileno()

    def reap(self) -> None:
        """Drop a few containers that have ended.

        `fileno` is readable until all of them are dropped.
        """
        if not self._epoll.poll(0, 1):
            return
        dropped = []
        with self._lock:
            # Polled with the lock held: a number that was polled before may be another's by now.
            for pidfd, _ in self._epoll.poll(0, _REAPED):
                pidns = self._by_pidfd.get(pidfd)
                if pidns is not None:
                    dropped.append(self._forget(pidns))

    def close(self) -> None:
        """Drop everything and end the search."""
        self._search.close()
        with self._lock:
            dropped = [self._forget(pidns) for pidns in list(self._inits)]
            self._epoll.close()
        del dropped
        self._host_callers.close()

    def _living(self, pidns: int) -> _Init | None:
        """Return a namespace's entry; drop it if its init has ended."""
        init = self._inits.get(pidns)
        if init is None or not self._epoll.poll(0, 1) or not has_ended(init.pidfd):
            return init
        with self._lock:
            if self._inits.get(pidns) is init:
                self._forget(pidns)
        return None

    def _known(self, identity: Identity) -> ContainerSource | None:
        init = self._living(identity.pidns)
        if init is None or not identity.cgroupns:
            return None if init is None else init.container
        sibling = init.siblings.get(identity.cgroupns)
        return None if sibling is None else sibling.container

    def _add(self, pidns: int, pid: int) -> _Init | None:
        if pid <= 0:
            return None
        try:
            init_pid = self._finder.find(pid, pidns)
            pidfd = Descriptor(os.pidfd_open(init_pid))
            container = ContainerSource(
                self._hierarchies,
                init=init_pid,
                roots_of=partial(self._roots_of, init_pid),
                want_load=self._want_load,
            )
        except (PylxcfsError, OSError):
            return None
        # What was opened by pid is init's if pidfd's process still runs: only then was the pid
        # not another's meanwhile. And it is this namespace's init, not a successor's.
        if pidns_of(init_pid, self._proc) != pidns or has_ended(pidfd):
            return None
        dropped = None
        with self._lock:
            known = self._inits.get(pidns)
            if known is not None:
                return known
            if self._on_new is not None:
                self._on_new(Identity(pidns, 0), container)
            init = self._inits[pidns] = _Init(init_pid, pidfd, container)
            self._by_pidfd[pidfd.number] = pidns
            self._epoll.register(pidfd.number, select.EPOLLIN)
            if len(self._inits) > self._max_open * _KNOWN_PER_OPEN:
                dropped = self._forget(next(iter(self._inits)))
        del dropped
        return init

    def _roots_of(self, pid: int) -> Paths:
        """Return the roots of an init's cgroup namespace; none where it is the server's own."""
        if cgroupns_of(pid, self._proc) in (0, self._own_cgroupns):
            return {}
        try:
            return namespace_roots(self._hierarchies, self._finder.translator, pid)
        except PylxcfsError:
            return {}  # the cgroup in which it was seen first counts

    def _add_sibling(self, init: _Init, identity: Identity, pid: int) -> Sibling | None:
        sibling = self._make_sibling(init, identity, pid)
        if sibling is None:
            # The caller may be in a cgroup namespace below this one.
            sibling = self._make_sibling(init, identity, self.search(identity))
        if sibling is None:
            return None
        with self._lock:
            known = init.siblings.get(identity.cgroupns)
            if known is not None and not known.container.gone:
                return known
            if self._on_new is not None:
                self._on_new(identity, sibling.container)
            init.siblings[identity.cgroupns] = sibling
            if len(init.siblings) > _MAX_SIBLINGS:
                number, old = init.siblings.popitem(last=False)
                old.container.gone = True
                self._recent.pop(Identity(identity.pidns, number), None)
        return sibling

    def _make_sibling(self, init: _Init, identity: Identity, pid: int) -> Sibling | None:
        if pid <= 0:
            return None
        try:
            return Sibling.make(
                self._hierarchies,
                self._finder.translator,
                pid,
                identity.cgroupns,
                epoch=init.container.epoch,
                want_load=self._want_load,
            )
        except PylxcfsError:
            return None

    def _touch(self, identity: Identity, container: ContainerSource) -> None:
        if container is self._newest:
            return
        released = None
        with self._lock:
            if identity.pidns not in self._inits:
                return
            self._inits.move_to_end(identity.pidns)
            self._recent[identity] = self._newest = container
            container.released = False
            self._recent.move_to_end(identity)
            if len(self._recent) > self._max_open:
                _, released = self._recent.popitem(last=False)
        if released is not None:
            released.release()

    def _forget(self, pidns: int) -> _Init:
        """Remove an entry, with the lock held.

        Its files close with the last reference to it.
        """
        init = self._inits.pop(pidns)
        del self._by_pidfd[init.pidfd.number]
        self._epoll.unregister(init.pidfd.number)
        self._newest = None
        init.container.gone = True
        self._recent.pop(Identity(pidns, 0), None)
        for cgroupns, sibling in init.siblings.items():
            sibling.container.gone = True
            self._recent.pop(Identity(pidns, cgroupns), None)
        return init


def has_ended(pidfd: Descriptor) -> bool:
    """Return whether a process has ended, so that its pid may be another's."""
    poll = select.poll()
    poll.register(pidfd.number, select.POLLIN)
    return bool(poll.poll(0))
