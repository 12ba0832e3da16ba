"""What the two calls say of a container: the sources and views of the files, without a mount.

A value lives as long as a rendering of a file does. Nothing here raises but PylxcfsError: the
kernel answers then.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from pylxcfs.errors import SourceError
from pylxcfs.formats import loadavg as loadavg_format
from pylxcfs.formats import meminfo as meminfo_format
from pylxcfs.sources.cgroups import Hierarchies
from pylxcfs.sources.containers import ContainerSource
from pylxcfs.sources.initpid import InitFinder
from pylxcfs.sources.loadavg import Sampler
from pylxcfs.sources.procfs import HostFiles
from pylxcfs.sources.registry import Registry
from pylxcfs.syscalls.machines import LOAD_SHIFT, SysInfo
from pylxcfs.units import NS_PER_S
from pylxcfs.views import cpus, loadavg, meminfo
from pylxcfs.views.model import Options

_T = TypeVar("_T")

#: By the link of a pid namespace: until when it is good, and the container.
Known = dict[str, tuple[float, ContainerSource]]

#: Containers of which values are kept.
_MOST: Final = 4096


class Values:
    """The values of all containers, for any thread. `ttl_s`: how long one is good."""

    def __init__(self, options: Options, ttl_s: float, init_pid_method: str) -> None:
        self._options = options
        self._ttl_s = ttl_s
        self._host = HostFiles()
        hierarchies = Hierarchies.discover()
        self._sampler = Sampler(hierarchies)
        self._finder = InitFinder(init_pid_method)
        self._registry = Registry(
            hierarchies,
            self._host,
            self._finder,
            want_load=self._sampler.want if options.loadavg else None,
        )
        self._infos: dict[ContainerSource, tuple[float, SysInfo]] = {}
        self._counts: dict[ContainerSource, tuple[float, int]] = {}
        #: Sources are for one thread at a time; none of them blocks.
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start what works in the background."""
        self._registry.start()
        self._sampler.start()

    def close(self) -> None:
        """Close what was opened, and end what works in the background."""
        self._sampler.close()
        self._registry.close()
        self._finder.close()
        self._host.close()

    def reap(self) -> None:
        """Forget containers that have ended; call it now and then."""
        self._registry.reap()
        for kept in (self._infos, self._counts):
            for container in [one for one in list(kept) if one.gone]:
                kept.pop(container, None)

    def container_of(self, tid: int, known: Known) -> ContainerSource | None:
        """Return the container of a thread; None for a process of the host, or an unknown one.

        `known`: what was found for the same listener, by pid namespace. A listener is of one
        container, and of those that run in it in namespaces of their own.
        """
        try:
            namespace = os.readlink(f"/proc/{tid}/ns/pid")
        except OSError:
            return None
        now = time.monotonic()
        until, container = known.get(namespace, (0.0, None))
        if now < until and container is not None and not container.gone:
            return container
        with self._lock:
            identity = self._registry.identify(tid)
            if identity is None or identity == self._registry.host_identity:
                return None
            container = self._registry.get(identity, tid)
        if container is not None:
            if len(known) >= _MOST:
                known.clear()
            known[namespace] = now + self._ttl_s, container
        return container

    def info(self, container: ContainerSource) -> SysInfo:
        """Return what sysinfo(2) says. Raise SourceError, FormatError."""
        return self._kept(self._infos, container, self._info)

    def visible(self, container: ContainerSource) -> int:
        """Return how many CPUs a container sees. Raise SourceError, FormatError."""
        return self._kept(
            self._counts, container, lambda one: len(cpus.visible(self._host, one, self._options))
        )

    def _kept(
        self,
        kept: dict[ContainerSource, tuple[float, _T]],
        container: ContainerSource,
        make: Callable[[ContainerSource], _T],
    ) -> _T:
        now = time.monotonic()
        known = kept.get(container)
        if known is not None and now < known[0]:
            return known[1]
        with self._lock:
            value = make(container)
            if len(kept) >= _MOST:
                kept.clear()
            kept[container] = now + self._ttl_s, value
        return value

    def _info(self, container: ContainerSource) -> SysInfo:
        text = meminfo.render(self._host, container, self._options)
        found = meminfo_format.read(text)

        def amount(name: bytes) -> int:
            value = found.number(name)
            if value is None:
                raise SourceError(f"meminfo has no {name.decode()}")
            return value

        up_ns = max(0, self._host.now_ns() - container.started_ns())
        load = loadavg_format.parse(loadavg.render(self._host, container, self._options))
        one, five, fifteen = (int(average * (1 << LOAD_SHIFT)) for average in load.averages)
        return SysInfo(
            -(-up_ns // NS_PER_S),
            (one, five, fifteen),
            amount(b"MemTotal"),
            amount(b"MemFree"),
            amount(b"Shmem"),
            amount(b"Buffers"),
            amount(b"SwapTotal"),
            amount(b"SwapFree"),
            load.total,
        )
