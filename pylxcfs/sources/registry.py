"""Which container a caller belongs to: the table of pid namespaces, kept true by pidfds.

An entry lives as long as its namespace's init: a pidfd of it in an epoll says when it ended, and
only after that can the inode number come back as another namespace's. Nothing here raises: who
cannot be known gets None, and the caller serves the host's file.

The lock guards the tables and is never held while the kernel is asked anything that may take
long; two threads may make the same entry, and one of the two wins.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from pylxcfs.errors import PylxcfsError
from pylxcfs.sources.cgroups import Hierarchies
from pylxcfs.sources.containers import ContainerSource
from pylxcfs.sources.hostcallers import HostCallers
from pylxcfs.sources.identity import Identity, cgroupns_of, pidns_of
from pylxcfs.sources.initpid import InitFinder
from pylxcfs.sources.procfs import HostFiles
from pylxcfs.sources.siblings import Sibling

#: Containers known at once, for each one that may hold descriptors of its files. An entry itself
#: costs two (pidfd and /proc/INIT/cgroup). Who falls out is made anew when asked for again.
_KNOWN_PER_OPEN = 3

#: Cgroup namespaces told apart inside one pid namespace: more than a pod has containers, and a
#: bound on what a program that makes namespaces for fun can cost.
_MAX_SIBLINGS = 64

#: Seconds that may be spent at once on looking at all processes, and their share of all time: the
#: names of by-pidns/ are there for everybody to ask for, and meanwhile nobody else is served.
_SEARCH_S = 0.5
_SEARCH_SHARE = 0.05

OnNew = Callable[[Identity, ContainerSource], None]


@dataclass(slots=True)
class _Init:
    """A pid namespace: its init, and the containers in it."""

    pid: int
    pidfd: int
    container: ContainerSource
    #: Its cgroup namespace when last looked at.
    cgroupns: int = 0
    siblings: OrderedDict[int, Sibling] = field(default_factory=OrderedDict)


class Registry:
    """The containers that have asked for something and still live."""

    def __init__(
        self,
        hierarchies: Hierarchies,
        host: HostFiles,
        init_finder: InitFinder,
        max_containers: int = 512,
        on_new: OnNew | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._search_left = _SEARCH_S
        self._searched = clock()
        self._hierarchies = hierarchies
        self._finder = init_finder
        self._max_open = max_containers
        self._on_new = on_new
        self._proc = f"{hierarchies.root.rstrip('/')}/proc"
        self._own_pidns = pidns_of(os.getpid())
        self._own_cgroupns = cgroupns_of(os.getpid())
        self._lock = threading.Lock()
        self._epoll = select.epoll()
        self._inits: OrderedDict[int, _Init] = OrderedDict()
        self._by_pidfd: dict[int, int] = {}
        self._recent: OrderedDict[Identity, ContainerSource] = OrderedDict()
        #: The one that asked last, which is at the end of the tables.
        self._newest: ContainerSource | None = None
        self._host_callers = HostCallers(hierarchies, host)

    @property
    def host_identity(self) -> Identity:
        """The identity of processes in the daemon's own pid namespace."""
        return Identity(self._own_pidns, 0)

    def identify(self, pid: int) -> Identity | None:
        """Return who a process (or thread) is; None if its namespaces cannot be seen."""
        pidns = pidns_of(pid, self._proc) if pid > 0 else 0
        if pidns == 0:
            return None
        if pidns == self._own_pidns:
            return Identity(pidns, 0)
        cgroupns = cgroupns_of(pid, self._proc)
        if cgroupns in (0, self._own_cgroupns):
            return Identity(pidns, 0)
        self.reap()
        init = self._inits.get(pidns) or self._add(pidns, pid)
        if init is None or init.cgroupns == cgroupns:
            return Identity(pidns, 0)
        # Runtimes give the init its cgroup namespace late, so it may have another one by now.
        init.cgroupns = cgroupns_of(init.pid, self._proc)
        return Identity(pidns, 0 if init.cgroupns in (0, cgroupns) else cgroupns)

    def get(self, identity: Identity, pid: int) -> ContainerSource | None:
        """Return the container `identity`, of which `pid` is a process; None if not to be known.

        A pid of 0 is enough for a container that is known already.
        """
        self.reap()
        if identity.pidns == self._own_pidns:
            return self.host_caller(pid)
        init = self._inits.get(identity.pidns) or self._add(identity.pidns, pid)
        if init is None:
            return None
        container = init.container
        if container.gone:
            with self._lock:
                # Its init lives, so it has a cgroup, whatever was seen before.
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
        """Whether a container has asked before, or is the host."""
        return identity.pidns == self._own_pidns or self._known(identity) is not None

    def is_open(self, identity: Identity) -> bool:
        """Whether a container's files are open, or it is the host."""
        if identity.pidns == self._own_pidns:
            return True
        container = self._known(identity)
        return container is not None and container.is_open

    def host_caller(self, pid: int) -> ContainerSource | None:
        """Return a host process's own cgroup as a container; None if nothing limits it."""
        return self._host_callers.get(pid)

    def search(self, identity: Identity) -> int:
        """Return the pid of some process of a container, looking at all of them; 0 if none.

        For a daemon that was restarted and has a file handle, but no caller yet. Who makes it
        search all the time finds nothing for a while.
        """
        now = self._clock()
        left = self._search_left + (now - self._searched) * _SEARCH_SHARE
        self._search_left, self._searched = min(left, _SEARCH_S), now
        if left <= 0:
            return 0
        found = self._search(identity)
        self._search_left -= self._clock() - now
        return found

    def _search(self, identity: Identity) -> int:
        try:
            names = os.listdir(self._proc)
        except OSError:
            return 0
        for name in names:
            if (
                name.isdecimal()
                and pidns_of(int(name), self._proc) == identity.pidns
                and (
                    not identity.cgroupns or cgroupns_of(int(name), self._proc) == identity.cgroupns
                )
            ):
                return int(name)
        return 0

    def containers(self) -> list[tuple[Identity, ContainerSource]]:
        """Return all that are known, without host processes."""
        with self._lock:
            known = [(Identity(ns, 0), init.container) for ns, init in self._inits.items()]
            for ns, init in self._inits.items():
                for cgroupns, sibling in init.siblings.items():
                    known.append((Identity(ns, cgroupns), sibling.container))
        return known

    def fileno(self) -> int:
        """Readable when `reap` has something to do."""
        return self._epoll.fileno()

    def reap(self) -> None:
        """Forget the containers whose init has ended."""
        if not self._epoll.poll(0):
            return
        with self._lock:
            # Asked again: another thread may have been here meanwhile, and the descriptor that
            # said so may be a living container's by now.
            for pidfd, _ in self._epoll.poll(0):
                pidns = self._by_pidfd.get(pidfd)
                if pidns is not None:
                    self._forget(pidns)

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            for pidns in list(self._inits):
                self._forget(pidns)
            self._epoll.close()
        self._host_callers.close()

    def _known(self, identity: Identity) -> ContainerSource | None:
        """Return a container that has asked before, as it was then."""
        init = self._inits.get(identity.pidns)
        if init is None or not identity.cgroupns:
            return None if init is None else init.container
        sibling = init.siblings.get(identity.cgroupns)
        return None if sibling is None else sibling.container

    def _add(self, pidns: int, pid: int) -> _Init | None:
        if pid <= 0:
            return None
        try:
            init_pid = self._finder.find(pid)
            pidfd = os.pidfd_open(init_pid)
        except (PylxcfsError, OSError):
            return None
        try:
            container = ContainerSource(self._hierarchies, init=init_pid)
        except PylxcfsError:
            os.close(pidfd)
            return None
        # What was opened by pid is init's if pidfd's process still runs: only then was the pid
        # not another's meanwhile. And it is this namespace's init, not a successor's.
        if pidns_of(init_pid, self._proc) != pidns or _has_ended(pidfd):
            os.close(pidfd)
            return None
        with self._lock:
            known = self._inits.get(pidns)
            if known is not None:
                os.close(pidfd)
                return known
            init = self._inits[pidns] = _Init(init_pid, pidfd, container)
            self._by_pidfd[pidfd] = pidns
            self._epoll.register(pidfd, select.EPOLLIN)
            if len(self._inits) > self._max_open * _KNOWN_PER_OPEN:
                self._forget(next(iter(self._inits)))
        if self._on_new is not None:
            self._on_new(Identity(pidns, 0), container)
        return init

    def _add_sibling(self, init: _Init, identity: Identity, pid: int) -> Sibling | None:
        if pid <= 0:
            return None
        try:
            sibling = Sibling.make(
                self._hierarchies, self._finder.translator, pid, identity.cgroupns
            )
        except PylxcfsError:
            return None
        with self._lock:
            known = init.siblings.get(identity.cgroupns)
            if known is not None and not known.container.gone:
                return known
            init.siblings[identity.cgroupns] = sibling
            if len(init.siblings) > _MAX_SIBLINGS:
                old, _ = init.siblings.popitem(last=False)
                self._recent.pop(Identity(identity.pidns, old), None)
        if self._on_new is not None:
            self._on_new(identity, sibling.container)
        return sibling

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

    def _forget(self, pidns: int) -> None:
        """Drop an entry; with the lock held."""
        init = self._inits.pop(pidns)
        del self._by_pidfd[init.pidfd]
        self._epoll.unregister(init.pidfd)
        os.close(init.pidfd)
        init.container.gone = True
        self._newest = None
        self._recent.pop(Identity(pidns, 0), None)
        for cgroupns in init.siblings:
            self._recent.pop(Identity(pidns, cgroupns), None)


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
