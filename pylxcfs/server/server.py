"""One server's parts, plugged together: sources, views, the two mounts, state.

What is done now and then while it serves is in tasks.py; how a process becomes a server in
serve.py. Imports neither trio nor pyfuse3, which take longer to load than everything else: readers
are served before those are there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pylxcfs import log
from pylxcfs.errors import SourceError
from pylxcfs.fuse import memory
from pylxcfs.fuse.connection import Connection, device_of_server
from pylxcfs.fuse.session import Session
from pylxcfs.fuse.store import Store
from pylxcfs.guard import Guard
from pylxcfs.server.containers import Containers
from pylxcfs.server.handover import Inheritance, export, is_urgent
from pylxcfs.server.settings import Settings
from pylxcfs.server.state import StateFile
from pylxcfs.sources.cgroups import Hierarchies
from pylxcfs.sources.devices import effective, instructions
from pylxcfs.sources.identity import Identity
from pylxcfs.sources.initpid import InitFinder
from pylxcfs.sources.loadavg import Sampler
from pylxcfs.sources.personality import host32
from pylxcfs.sources.prewarm import Prewarm
from pylxcfs.sources.procfs import HostFiles
from pylxcfs.sources.registry import Registry
from pylxcfs.tree import nodes
from pylxcfs.tree.caller import CallerMount
from pylxcfs.tree.callers import Callers
from pylxcfs.tree.cgroup import CgroupTree
from pylxcfs.tree.contents import Contents
from pylxcfs.tree.names import Names
from pylxcfs.tree.own import OwnMount
from pylxcfs.tree.sysfs import SysTree
from pylxcfs.tree.triggers import Triggers, notification
from pylxcfs.units import NS_PER_S
from pylxcfs.views import VIEWS
from pylxcfs.views.model import CpuNumbering, CpuView, Options, SysCpu

if TYPE_CHECKING:
    from pylxcfs.sources.cgroupfs import CgroupFiles

_log = logging.getLogger(__name__)

#: Descriptors that a container may keep open, and those that everything else needs.
_FDS_EACH = 24
_FDS_OTHER = 1024 + 256

#: Host values in a container's file are not older than this, however long texts live.
_MOST_RECENT_NS = NS_PER_S // 10

#: A tick of the kernel, in which it counts attribute timeouts: CLOCK_MONOTONIC_COARSE (6).
_TICK_NS = round(time.clock_getres(6) * NS_PER_S)

#: A busy machine may take longer than the patience of the namespace helper, once.
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Descriptors:
    """The two mounted connections, and the memory of each that outlives servers."""

    own: int
    own_memory: int
    caller: int
    caller_memory: int


def options_of(settings: Settings) -> Options:
    """Return the policy that views get from the configuration."""
    return Options(
        cpu_view=CpuView(settings.cpu_view),
        cpu_numbering=CpuNumbering(settings.cpu_numbering),
        sys_cpu=SysCpu(settings.sys_cpu),
        swap=not settings.disable_swap,
        zswap=not settings.disable_zswap,
        loadavg=settings.loadavg,
        vmstat=settings.vmstat,
    )


class Computation:
    """From a caller to a text: sources and views, without a mount."""

    def __init__(self, settings: Settings, give_way: Callable[[], object] = lambda: None) -> None:
        self.guard = Guard()
        self.host = HostFiles()
        self.host.recent_ns = _recent_ns(settings)
        self.sysfs = SysTree(devices=settings.enable_devices)
        self._hierarchies = hierarchies = Hierarchies.discover()
        self._state = StateFile(os.path.join(settings.runtime_dir, "state.json"))
        self.inheritance = Inheritance({}, 0, 0)
        self.sampler = Sampler(hierarchies, give_way, self.guard.attempt)
        finder = InitFinder(settings.init_pid_method)
        _prepare(finder)
        self.registry = Registry(
            hierarchies,
            self.host,
            finder,
            max_containers=min(settings.max_containers, _containers_that_fit()),
            want_load=self.sampler.want if settings.loadavg else None,
            on_new=lambda identity, container: self.inheritance.hand_over(identity, container),
            attempt=self.guard.attempt,
        )
        #: What keeps an option from working here, by the option.
        self.problems: dict[str, str] = {}
        if settings.enable_devices:
            _check_devices(hierarchies, self.problems)
        self.prewarm = Prewarm(self.registry)
        self.containers = Containers(
            self.registry, hierarchies, self.prewarm, f"{settings.runtime_dir}/caller"
        )
        self.contents = Contents(
            VIEWS, self.sysfs, self.host, options_of(settings), self.guard, host32(self.host)
        )

    def load_state(self, shown: Mapping[tuple[Identity, int], bytes]) -> None:
        """Take over load averages and CPU counters of the server before this one.

        `shown`: the texts of proc/stat that it has shown last.
        """
        kept = self._state.load().get("containers")
        now_ns, awake_ns = self.host.now_ns(), self.host.awake_ns()
        self.inheritance = Inheritance(kept, now_ns, awake_ns, shown)

    def save_state(self) -> None:
        """Write what the next server goes on with."""
        left = self.inheritance.left()
        self._state.save({"containers": export(self.registry.containers()) | left})

    def must_save(self) -> bool:
        """Return whether the state should be saved before its time."""
        return is_urgent(self.registry.containers())

    def cgroup_files(self, settings: Settings) -> CgroupFiles:
        """Return cgroupfs for callers, with the helper that works there for them."""
        from pylxcfs.sources.cgroupfs import CgroupFiles  # it is off for most

        return CgroupFiles(self._hierarchies, self.registry, settings.request_timeout)

    def start(self) -> None:
        """Start what works in the background."""
        self.registry.start()
        self.sampler.start()

    def apply(self, settings: Settings) -> None:
        """Take over the options that may change while it runs."""
        self.contents.options = options_of(settings)
        self.host.recent_ns = _recent_ns(settings)


class Server:
    """The process that answers on both mounts. `on_end`: a connection was unmounted or aborted."""

    def __init__(
        self, settings: Settings, descriptors: Descriptors, on_end: Callable[[], object]
    ) -> None:
        self.settings = settings
        self.computation = computation = Computation(settings, self._give_way)
        self.guard = guard = computation.guard
        guard.attempt("positions", computation.containers.start)  # it takes as long as the rest
        own, caller = memory.read(descriptors.own_memory), memory.read(descriptors.caller_memory)
        own_device = device_of_server(descriptors.own, can_resend=own.can_resend)
        caller_device = device_of_server(descriptors.caller, can_resend=caller.can_resend)
        numbers = _inode_number if settings.enable_cgroup else None
        self.session = Session(caller_device, guard, numbers)
        self.triggers = Triggers(lambda poller: _notify(caller_device, poller))
        contents = computation.contents
        served = [os.path.exists("/" + view.host) for view in VIEWS]
        self.cgroup_files = computation.cgroup_files(settings) if settings.enable_cgroup else None
        cgroup = CgroupTree(self.cgroup_files) if self.cgroup_files else None
        self.names = names = Names(contents, served, cgroup)
        callers = Callers(computation.containers, own.secret)
        self.own = OwnMount(
            names,
            contents,
            callers,
            Store(descriptors.own_memory),
            _told_ns(settings),
            f"{settings.runtime_dir}/caller",
            settings.enable_psi_poll,
        )
        # With packed numbers a text does not say which CPUs it is about.
        packed = settings.cpu_numbering == "packed"
        computation.load_state({} if packed else _shown(self.own))
        self.caller = CallerMount(
            names,
            contents,
            callers,
            Store(descriptors.caller_memory),
            _ttl_ns(settings),
            self.triggers if settings.enable_psi_poll else None,
            self.session.send,
            cgroup=cgroup,
        )
        timeout_s = settings.request_timeout
        self.own_connection = Connection(
            "own", own_device, self.own, guard, timeout_s, on_end, can_resend=own.can_resend
        )
        self.caller_connection = Connection(
            "caller",
            caller_device,
            self.caller,
            guard,
            timeout_s,
            on_end,
            can_resend=caller.can_resend,
        )

    def begin(self) -> None:
        """Begin to answer readers."""
        self.guard.attempt("positions", self.computation.containers.settle)
        self.own_connection.serve()
        self.caller_connection.serve()
        self.computation.start()
        if self.cgroup_files is not None:
            _start_cgroup(self.cgroup_files, self.computation.problems)
        if self.settings.enable_psi_poll:
            self.triggers.start()
            self.triggers.wake_all_pollers()

    @property
    def healthy(self) -> bool:
        """False when another server should take over."""
        return self.own_connection.healthy and self.caller_connection.healthy

    def close(self) -> None:
        """Take no more requests and finish those that were taken; the mounts stay."""
        self.own_connection.close()
        self.caller_connection.close()
        self.session.drain()

    def sweep(self) -> None:
        """Forget what has expired; call it now and then."""
        self.caller.sweep()
        self.names.forget_modes()

    def toggle(self) -> None:
        """Switch virtualisation off or on again, as LXCFS does on SIGUSR2."""
        contents = self.computation.contents
        contents.virtual = not contents.virtual
        self._changed()
        what = "on: containers see their own values"
        if not contents.virtual:
            what = "off: files show the host until the next SIGUSR2"
        _log.warning("virtualisation is %s", what)

    def reload(self, settings: Settings) -> None:
        """Take over the options that may change while it runs."""
        self.settings = settings
        log.set_level(settings.log_level)
        self.computation.apply(settings)
        self.own.ttl_ns = _told_ns(settings)
        self.caller.ttl_ns = _ttl_ns(settings)
        self._changed()

    def _changed(self) -> None:
        self.own.changed()
        self.caller.changed()

    def _give_way(self) -> None:
        self.own_connection.give_way()
        self.caller_connection.give_way()


def _inode_number(node: int) -> int:
    """Return st_ino of a node of the caller mount: only below cgroup/ it is another number."""
    return nodes.inode_number(node) if nodes.is_cgroup(node) else node


def _start_cgroup(files: CgroupFiles, problems: dict[str, str]) -> None:
    try:
        files.start()
    except SourceError as error:
        problems["enable_cgroup"] = str(error)
        _log.warning("cgroup/ does not work: %s; docs/cgroup.md says what it needs", error)


def _shown(own: OwnMount) -> dict[tuple[Identity, int], bytes]:
    """Return what readers were shown of proc/stat, by container and epoch."""
    index = nodes.FILES + [view.path for view in VIEWS].index("proc/stat")
    return {(Identity(*owner), epoch): text for owner, epoch, text in own.shown(index)}


def _notify(device: int, poller: int) -> None:
    # The poller may be gone, or the connection.
    with contextlib.suppress(OSError):
        os.write(device, notification(poller))


def _ttl_ns(settings: Settings) -> int:
    return int(settings.cache_ttl * NS_PER_S)


def _told_ns(settings: Settings) -> int:
    """Return for how long the kernel is told to show a text: it adds up to two ticks."""
    ttl_ns = _ttl_ns(settings)
    return max(ttl_ns - 2 * _TICK_NS, ttl_ns // 2)


def _recent_ns(settings: Settings) -> int:
    return min(_ttl_ns(settings) // 2, _MOST_RECENT_NS)


def _prepare(finder: InitFinder) -> None:
    """Start what finding inits may need before the first caller comes."""
    for _ in range(_TRIES):
        try:
            finder.prepare()
        except SourceError as error:
            failed = error
        else:
            return
    _log.warning("containers cannot be told apart here, all see the host: %s", failed)


def _check_devices(hierarchies: Hierarchies, problems: dict[str, str]) -> None:
    """Say so at the start if it will not be known what containers may open."""
    if hierarchies.v2 is None or "devices" in hierarchies.v1:
        return
    try:
        for number in effective(hierarchies.v2.mountpoint):
            instructions(number)
    except SourceError as error:
        problems["enable_devices"] = str(error)
        _log.warning(
            "--enable-devices: containers see all devices of the host: %s; allow bpf(2), with"
            " CAP_SYS_ADMIN and, on older kernels, CAP_NET_ADMIN (docs/hpc.md)",
            error,
        )


def _containers_that_fit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (soft - _FDS_OTHER) // _FDS_EACH)
