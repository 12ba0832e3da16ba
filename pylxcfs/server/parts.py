"""One server's parts, plugged together: sources, views, filesystem, state.

Sources meet fusefs here (which knows only Protocols). What is done now and then while it serves
is in serving.py; how a process becomes a server in daemon.py. Imports neither trio nor pyfuse3.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
from dataclasses import replace

from pylxcfs import log
from pylxcfs.cli.options import Config, changes
from pylxcfs.errors import SourceError, UsageError
from pylxcfs.fusefs.asking import Asker
from pylxcfs.fusefs.connection import Connection
from pylxcfs.fusefs.contents import Contents
from pylxcfs.fusefs.filesystem import Filesystem
from pylxcfs.fusefs.guard import Guard
from pylxcfs.fusefs.snapshots import Snapshots
from pylxcfs.fusefs.systree import SysTree
from pylxcfs.fusefs.threads import WholeReaders
from pylxcfs.fusefs.tree import Tree
from pylxcfs.fusefs.triggers import Triggers, notification
from pylxcfs.server import state
from pylxcfs.server.handover import Inheritance, export
from pylxcfs.sources import reading
from pylxcfs.sources.cgroups import Hierarchies
from pylxcfs.sources.containers import ContainerSource
from pylxcfs.sources.expected import Expected
from pylxcfs.sources.identity import Identity, pidns_of
from pylxcfs.sources.initpid import InitFinder
from pylxcfs.sources.loadavg import Sampler
from pylxcfs.sources.personality import host32, is_32bit
from pylxcfs.sources.procfs import HostFiles
from pylxcfs.sources.registry import Registry
from pylxcfs.units import NS_PER_S
from pylxcfs.views import VIEWS
from pylxcfs.views.model import Container, CpuNumbering, CpuView, Options, SysCpu

_log = logging.getLogger(__name__)

#: Descriptors that a container may keep open, and those that everything else needs.
_FDS_EACH = 24
_FDS_OTHER = 1024 + 256

#: What the machine says of itself is not older in a container's file, however long texts live.
_MOST_RECENT_NS = NS_PER_S // 10

#: A machine that is busy may take longer than the helper's patience, once.
_TRIES = 3


def options_of(config: Config) -> Options:
    """Return the policy that views get from the configuration."""
    return Options(
        cpu_view=CpuView(config.cpu_view),
        cpu_numbering=CpuNumbering(config.cpu_numbering),
        sys_cpu=SysCpu(config.sys_cpu),
        swap=not config.disable_swap,
        zswap=not config.disable_zswap,
        loadavg=config.loadavg,
        vmstat=config.vmstat,
    )


class Callers:
    """The registry as fusefs asks for it."""

    def __init__(self, registry: Registry, hierarchies: Hierarchies, expected: Expected) -> None:
        self._registry = registry
        self._hierarchies = hierarchies
        self._expected = expected
        self.host_pidns = registry.host_identity.pidns
        self.tells_readings = reading.can_be_told()

    def identify(self, pid: int) -> Identity | None:
        """Return the container of a process."""
        return self._registry.identify(pid)

    def namespace(self, pid: int) -> int:
        """Return the pid namespace of a process."""
        return pidns_of(pid)

    def get(self, owner: tuple[int, int], pid: int) -> ContainerSource | None:
        """Return a container; without a process of its own to start from, look for one."""
        identity = Identity(*owner)
        found = self._registry.get(identity, pid)
        if found is None and not pid:
            found = self._registry.get(identity, self._registry.search(identity))
        return found

    def knows(self, owner: tuple[int, int]) -> bool:
        """Whether a container has asked before."""
        return self._registry.knows(Identity(*owner))

    def expect(self, owner: tuple[int, int], pid: int) -> None:
        """Prepare for a container whose files are being bound."""
        self._expected.note(Identity(*owner), pid)

    def host_caller(self, pid: int) -> Container | None:
        """Return a host process's own cgroup, if it limits anything."""
        return self._registry.host_caller(pid)

    def fileno(self) -> int:
        """Readable when a container has ended."""
        return self._registry.fileno()

    def reap(self) -> None:
        """Forget the containers that have ended."""
        self._registry.reap()

    def is_32bit(self, pid: int) -> bool:
        """Whether a process has a 32-bit personality."""
        return is_32bit(pid)

    def reading(self, tid: int, with_offset: bool) -> tuple[int, int | None] | None:
        """What a thread that waits for an answer has asked to read."""
        return reading.of(tid, with_offset=with_offset)

    def program(self, tid: int) -> bytes:
        """The program that a thread runs."""
        return reading.program(tid)

    def open_trigger(self, owner: tuple[int, int], pid: int, path: str) -> int:
        """Open the pressure file of the container's cgroup, or the host's. Raise OSError."""
        container = self._registry.get(Identity(*owner), pid)
        resource = path.rpartition("/")[2]
        file = f"/{path}"
        if container is not None:
            try:
                place = self._hierarchies.unified(container.paths())
            except SourceError as error:
                raise OSError(errno.ENODEV, str(error)) from error
            if place is not None and not place.is_root:
                file = f"{place.own}/{resource}.pressure"
        return os.open(file, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def known(self) -> list[Identity]:
        """Return the containers that live."""
        return [identity for identity, _ in self._registry.containers()]


class Server:
    """One server: its sources, its filesystem, its state."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.guard = Guard()
        self.host = HostFiles()
        self.host.recent_ns = _recent_ns(config)
        hierarchies = Hierarchies.discover()
        self.sampler = Sampler(hierarchies)
        self.inheritance = Inheritance({})
        finder = InitFinder(config.init_pid_method)
        _prepare(finder)
        self.registry = Registry(
            hierarchies,
            self.host,
            finder,
            max_containers=min(config.max_containers, _containers_that_fit()),
            on_new=self._on_new,
        )
        self.expected = Expected(self.registry)
        self.callers = Callers(self.registry, hierarchies, self.expected)
        sysfs = SysTree()
        options = options_of(config)
        self.contents = Contents(VIEWS, sysfs, self.host, options, self.guard, host32(self.host))
        served = [os.path.exists("/" + view.host) for view in VIEWS]
        self.readers = WholeReaders()
        self.snapshots = Snapshots(int(config.cache_ttl * NS_PER_S))
        self.triggers = Triggers(self._wake) if config.enable_psi_poll else None
        self.filesystem = Filesystem(
            Tree(VIEWS, served, sysfs),
            self.contents,
            self.callers,
            self.snapshots,
            self.readers,
            self.triggers,
        )
        self._device = -1
        self._state_path = os.path.join(config.runtime_dir, "state.json")

    # -- what is kept across restarts ------------------------------------------------------------

    def load_state(self) -> None:
        """Take over load averages and CPU counters of the server before this one."""
        self.inheritance = Inheritance(state.load(self._state_path).get("containers"))

    def save_state(self) -> None:
        """Write what the next server should go on with."""
        try:
            state.save(self._state_path, {"containers": export(self.registry.containers())})
        except OSError as error:
            _log.warning("state not saved to %s: %s", self._state_path, error)

    def _on_new(self, identity: Identity, container: ContainerSource) -> None:
        self.inheritance.hand_over(identity, container)
        container.on_load_wanted = self._sample_now

    def _sample_now(self, container: ContainerSource) -> None:
        self.sampler.sample([container], self.host.now_ns())

    def connect(self, device: int, init_fd: int) -> Connection:
        """Begin to serve a mounted connection."""
        self._device = device
        connection = Connection(
            self.filesystem, self.guard, device, init_fd, self.config.request_timeout
        )
        self.sampler.give_way = connection.give_way
        asker = Asker(self.config.mountpoint, self.filesystem.tree.path)
        self.filesystem.pages.ask_later = asker.later
        connection.begin()
        asker.start()  # not before there is somebody to answer readers
        return connection

    def _wake(self, poller: int) -> None:
        # The poller may be gone, or the connection.
        with contextlib.suppress(OSError):
            os.write(self._device, notification(poller))

    def toggle(self) -> None:
        """Switch virtualisation off or on again, as LXCFS does on SIGUSR2."""
        self.contents.virtual = not self.contents.virtual
        self.filesystem.changed()
        what = "on: containers see their own values"
        if not self.contents.virtual:
            what = "off: files show the host until the next SIGUSR2"
        _log.warning("virtualisation is %s", what)

    def reload(self) -> None:
        """Read the configuration again; say what changed and what needs a restart."""
        try:
            new = self.config.reload(os.environ)
        except UsageError as error:
            _log.error("not reloaded: %s; %s", error, error.hint)
            return
        changed = changes(self.config, new)
        for change in changed:
            after = "" if change.option.live else " (takes a restart)"
            _log.info("changed %s%s", change, after)
        if not changed:
            _log.info("reloaded: nothing changed")
        live = {c.option.name: c.new for c in changed if c.option.live}
        self.config = replace(self.config, **live)
        log.set_level(self.config.log_level)
        self.contents.options = options_of(self.config)
        self.snapshots.ttl_ns = int(self.config.cache_ttl * NS_PER_S)
        self.host.recent_ns = _recent_ns(self.config)
        self.filesystem.changed()


def _recent_ns(config: Config) -> int:
    return min(int(config.cache_ttl * NS_PER_S) // 2, _MOST_RECENT_NS)


def _prepare(finder: InitFinder) -> None:
    """Let the first caller not wait for what finding inits may have to start."""
    for _ in range(_TRIES):
        try:
            finder.prepare()
        except SourceError as error:
            failed = error
        else:
            return
    _log.warning("containers cannot be told apart here, all see the host: %s", failed)


def _containers_that_fit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (soft - _FDS_OTHER) // _FDS_EACH)
