"""The serving process: everything plugged together, and what it does besides answering reads.

Started by the keeper with a connection that is already mounted; when it ends, the mount stays
and the next server goes on. Sources are plugged into fusefs here (fusefs knows only Protocols).
Answers no request itself, and mounts and unmounts nothing.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import replace

import trio

from pylxcfs import log, state
from pylxcfs.config import Config, changes
from pylxcfs.errors import SourceError, UsageError, UserError
from pylxcfs.fusefs.contents import Contents
from pylxcfs.fusefs.filesystem import Filesystem
from pylxcfs.fusefs.guard import Guard
from pylxcfs.fusefs.nodes import FILES, SYSFS
from pylxcfs.fusefs.session import Session
from pylxcfs.fusefs.snapshots import Snapshots
from pylxcfs.fusefs.systree import SysTree
from pylxcfs.fusefs.threads import WholeReaders
from pylxcfs.fusefs.tree import Tree
from pylxcfs.fusefs.triggers import Triggers, notification
from pylxcfs.handover import Inheritance, export
from pylxcfs.sources.averages import STEP_NS
from pylxcfs.sources.cgroups import Hierarchies
from pylxcfs.sources.containers import ContainerSource
from pylxcfs.sources.identity import Identity
from pylxcfs.sources.initpid import InitFinder
from pylxcfs.sources.loadavg import Sampler
from pylxcfs.sources.procfs import HostFiles
from pylxcfs.sources.registry import Registry
from pylxcfs.units import NS_PER_S
from pylxcfs.views import VIEWS
from pylxcfs.views.model import Container, CpuNumbering, CpuView, Options, SysCpu

_log = logging.getLogger(__name__)

#: Descriptors that a container may keep open, and those that everything else needs.
_FDS_EACH = 24
_FDS_OTHER = 1024 + 256

_HEARTBEAT_S = 0.5
_SWEEP_S = 5.0
_SAVE_S = 60.0

#: The interpreter's default of 5 ms is what a reader would wait while the load is sampled.
_SWITCH_INTERVAL_S = 0.0005


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

    def __init__(self, registry: Registry, hierarchies: Hierarchies) -> None:
        self._registry = registry
        self._hierarchies = hierarchies
        self.host_pidns = registry.host_identity.pidns

    def identify(self, pid: int) -> Identity | None:
        """Return the container of a process."""
        return self._registry.identify(pid)

    def get(self, owner: tuple[int, int], pid: int) -> Container | None:
        """Return a container; without a process of its own to start from, look for one."""
        identity = Identity(*owner)
        found = self._registry.get(identity, pid)
        if found is None and not pid:
            found = self._registry.get(identity, self._registry.search(identity))
        return found

    def host_caller(self, pid: int) -> Container | None:
        """Return a host process's own cgroup, if it limits anything."""
        return self._registry.host_caller(pid)

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
        hierarchies = Hierarchies.discover()
        self.sampler = Sampler(hierarchies)
        self.inheritance = Inheritance({})
        self.registry = Registry(
            hierarchies,
            self.host,
            InitFinder(config.init_pid_method),
            max_containers=min(config.max_containers, _containers_that_fit()),
            on_new=self._on_new,
        )
        self.callers = Callers(self.registry, hierarchies)
        sysfs = SysTree()
        options = options_of(config)
        self.contents = Contents(VIEWS, sysfs, self.host, options, self.guard)
        served = [os.path.exists("/" + view.host) for view in VIEWS]
        self.readers = WholeReaders()
        self.snapshots = Snapshots(int(config.cache_ttl * 1e9))
        self.triggers = Triggers(self._wake) if config.enable_psi_poll else None
        self.filesystem = Filesystem(
            Tree(VIEWS, served, sysfs),
            self.contents,
            self.callers,
            self.snapshots,
            self.readers,
            self.triggers,
        )
        self._connection = -1
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

    # -- while it serves ---------------------------------------------------------------------------

    async def run(self, connection: int, init_fd: int, heartbeat: int) -> None:
        """Serve until the connection ends or SIGTERM arrives."""
        self._connection = connection
        session = Session(
            self.filesystem, self.guard, connection, init_fd, self.config.request_timeout
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(self._signals, nursery.cancel_scope)
            nursery.start_soon(_whenever, self.registry.fileno(), self.registry.reap)
            nursery.start_soon(_whenever, self.readers.fileno(), self.readers.reap)
            nursery.start_soon(self._sample)
            nursery.start_soon(self._sweep)

            def started() -> None:
                if self.triggers is not None:
                    self.triggers.start()
                    self.triggers.wake_pollers_of_the_dead()
                _beat(heartbeat, b"R")
                gc.collect()
                gc.freeze()
                nursery.start_soon(self._heartbeats, heartbeat, session)

            await session.run(started)
            nursery.cancel_scope.cancel()

    async def _heartbeats(self, heartbeat: int, session: Session) -> None:
        while session.healthy:
            _beat(heartbeat, b"H")
            await trio.sleep(_HEARTBEAT_S)
        _log.error("too many requests are stuck; waiting to be replaced")

    def _wake(self, poller: int) -> None:
        # The poller may be gone, or the connection.
        with contextlib.suppress(OSError):
            os.write(self._connection, notification(poller))

    async def _sample(self) -> None:
        while True:
            await trio.sleep(STEP_NS / NS_PER_S)
            if not self.config.loadavg:
                continue
            for _, container in self.registry.containers():
                self.sampler.sample([container], self.host.now_ns())
                await trio.lowlevel.checkpoint()

    async def _sweep(self) -> None:
        saved = trio.current_time()
        while True:
            await trio.sleep(_SWEEP_S)
            self.filesystem.sweep()
            self.contents.forget_bounds()
            if trio.current_time() - saved >= _SAVE_S:
                self.save_state()
                saved = trio.current_time()

    async def _signals(
        self,
        scope: trio.CancelScope,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        watched = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
        with trio.open_signal_receiver(*watched) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP:
                    self.reload()
                elif number == signal.SIGUSR2:
                    self.toggle()
                else:
                    scope.cancel()
                    return

    def toggle(self) -> None:
        """Switch virtualisation off or on again, as LXCFS does on SIGUSR2."""
        self.contents.virtual = not self.contents.virtual
        self.snapshots.clear()
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
        self.snapshots.ttl_ns = int(self.config.cache_ttl * 1e9)
        self.snapshots.clear()


def serve(config: Config, connection_fd: int, init_fd: int, heartbeat_fd: int) -> int:
    """Serve on a mounted connection; return the exit code (0: unmounted, or told to end)."""
    faulthandler.enable()
    faulthandler.register(signal.SIGQUIT, all_threads=True)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    _raise_descriptor_limit()
    server = Server(config)
    server.load_state()
    trio.run(server.run, connection_fd, init_fd, heartbeat_fd)
    server.save_state()
    return 0


def show(config: Config, path: str, pid: int) -> bytes:
    """Return what process `pid` would read from `path` ("proc/meminfo"), without a mount.

    Raise UserError for a path that is not served or a process that is not there.
    """
    if not os.path.exists(f"/proc/{pid}"):
        raise UserError(f"there is no process {pid}", "give --pid a process that runs")
    server = Server(config)
    index = _index(server, path)
    owner = server.callers.identify(pid)
    if owner is None:
        raise UserError(f"the namespaces of process {pid} cannot be read", "run this as root")
    if owner.pidns == server.callers.host_pidns:
        container = server.callers.host_caller(pid)
    else:
        container = server.callers.get(owner, pid)
    try:
        return server.contents.render(index, container)
    except SourceError as error:
        raise UserError(
            f"the host's {path} cannot be read: {error}", "see whether the file exists"
        ) from error


def _index(server: Server, path: str) -> int:
    path = path.strip("/")
    for i, view in enumerate(VIEWS):
        if view.path == path:
            return FILES + i
    index = None
    if path.startswith("sys/devices/system/"):
        index = server.filesystem.tree.sysfs.index(path)
    if index is None or index < SYSFS:
        names = " ".join(view.path for view in VIEWS)
        raise UserError(
            f"no such file is served: {path}",
            f"served are {names} and what is below sys/devices/system/cpu and node",
        )
    return index


async def _whenever(fd: int, work: Callable[[], None]) -> None:
    """Do `work` each time that `fd` is readable."""
    while True:
        await trio.lowlevel.wait_readable(fd)
        work()


def _beat(heartbeat: int, byte: bytes) -> None:
    try:
        os.write(heartbeat, byte)
    except BrokenPipeError:
        _log.warning("the keeper has ended")
    except BlockingIOError:
        pass  # it has plenty of beats to read


def _raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _containers_that_fit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (soft - _FDS_OTHER) // _FDS_EACH)
