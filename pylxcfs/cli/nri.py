"""`nri`: the plugin of kubernetes/nri.py, with what attach/ does for it.

By a hook where its file and Python are on the node, as with pylxcfs installed there. By mounts in a
container: the runtime looks for the hook on the node. A mount whose source does not answer would
keep a container from starting, so mounts are offered only while the own mount answers.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from pylxcfs.attach import containers, engines, work
from pylxcfs.attach.containers import printable
from pylxcfs.attach.mounting import ATTACHED, FAILED, LEFT, REPLACED
from pylxcfs.attach.runtime import hook_of
from pylxcfs.attach.views import Mounts
from pylxcfs.cli import engines as served_by
from pylxcfs.cli import env as env_command
from pylxcfs.cli import runtime
from pylxcfs.cli.options import Config
from pylxcfs.errors import HostError
from pylxcfs.formats import pidcgroup
from pylxcfs.kubernetes.annotations import PATHS
from pylxcfs.kubernetes.nri import (
    Adjustment,
    Client,
    Hook,
    Hooks,
    Mount,
    Plugin,
    Requests,
    Running,
    Selection,
    View,
)
from pylxcfs.sources import request
from pylxcfs.sources.cgroups import Hierarchies

if TYPE_CHECKING:
    from pylxcfs.kubernetes.namespaces import Namespaces

_log = logging.getLogger(__name__)

#: Between two requests to the own mount, between two looks for it while it is not there, and the
#: age at which an answer counts no more.
_BEAT_S: Final = 0.5
_LOOK_S: Final = 0.1
_OLD_S: Final = 2.0
#: An instance that starts beside the plugin gets so long, before a container is left without files.
_START_S: Final = 30.0


class Wanted(NamedTuple):
    """What the command line says."""

    every: bool
    namespaces: str
    selector: str
    env: str
    socket: str
    by: str


class Pulse:
    """Whether the mounts are there; asked in a thread, which may hang for a while."""

    def __init__(self, config: Config, *, must_answer: bool) -> None:
        """Begin. `must_answer`: a mount in the table of mounts is not enough."""
        self._config = config
        self._must_answer = must_answer
        self._answered = -_OLD_S
        self._asked = threading.Event()
        threading.Thread(target=self._run, daemon=True, name="pulse").start()
        self._asked.wait(_OLD_S)

    def is_there(self) -> bool:
        """Return whether they were there lately."""
        return time.monotonic() - self._answered < _OLD_S

    def wait(self, timeout_s: float) -> bool:
        """Wait until they are there; return whether they are."""
        until = time.monotonic() + timeout_s
        while not (there := self.is_there()) and time.monotonic() < until:
            time.sleep(_LOOK_S)
        return there

    def _run(self) -> None:
        while True:
            self._answered = time.monotonic() if self._ask() else -_OLD_S
            self._asked.set()
            time.sleep(_BEAT_S if self.is_there() else _LOOK_S)

    def _ask(self) -> bool:
        try:
            if found(self._config) is None:
                return False
            if self._must_answer:
                os.statvfs(self._config.mountpoint)  # never answered from a cache
        except OSError:
            return False
        return True


def found(config: Config) -> Mounts | None:
    """Return the mounts of the instance, by the table of mounts."""
    return Mounts.find(config.mountpoint, runtime.caller_mount(config))


class Node:
    """The instance on this node, for the plugin."""

    def __init__(self, config: Config, by: str) -> None:
        self._config = config
        self._by_hook = by == "hook" or (by == "auto" and is_on_host())
        self._served = served_by.served()
        self._kinds = engines.kinds(self._served)
        self._hierarchies = Hierarchies.discover()
        self._pulse = Pulse(config, must_answer=not self._by_hook)

    def offer(self, view: View) -> Adjustment | None:
        """Return mounts or the hook; None while nothing is served."""
        paths, place = self._paths(view), self._config.mountpoint
        # The table of mounts tells at once that they are gone; that they are dead, the pulse.
        if not self._pulse.is_there() or found(self._config) is None:
            return None
        if self._by_hook and paths:
            hook = hook_of(place, paths)
            return Adjustment(hooks=Hooks([Hook(hook["path"], hook["args"])]))
        return Adjustment([Mount(**mount) for mount in engines.mounts(place, paths)])

    def is_its_own(self, pid_namespace: str) -> bool:
        """Return whether a path is that of the node's pid namespace."""
        try:
            return os.readlink(pid_namespace) == os.readlink("/proc/self/ns/pid")
        except OSError:
            return False

    def request(self, cgroups_path: str, requests: Requests) -> None:
        """Note what a container requests at its cgroups; log what failed."""
        path = directory_of(cgroups_path)
        paths = dict.fromkeys(("cpu", "memory", pidcgroup.UNIFIED), path)
        try:
            request.write(self._hierarchies, paths, *requests)
        except OSError as error:
            _log.warning("cgroup %s: requests are not shown: %s", printable(path), error.strerror)

    def _paths(self, view: View) -> list[str]:
        if view.files is None:
            return self._kinds[view.part]
        return [PATHS[name] for name in view.files if PATHS[name] in self._served]

    def attach(self, container: Running) -> None:
        """Attach a container that runs; log what failed."""
        mounts = found(self._config) if self._pulse.wait(_START_S) else None
        if mounts is None:
            _log.warning("pod %s: not attached: no instance serves", printable(container.name))
            return
        try:
            running = containers.by_pid(container.pid)
        except OSError:
            return  # it has ended
        try:
            if not _is_in(container) or _shares_with_host(running):
                return
            outcomes = work.attach(mounts, running, self._paths(container.view), take_over=False)
        except (FileNotFoundError, ProcessLookupError):
            return
        except OSError as error:
            _log.warning("pod %s: not attached: %s", printable(container.name), error)
            return
        finally:
            os.close(running.pidfd)
        changed = sum(one.what in (ATTACHED, REPLACED) for one in outcomes)
        if changed:
            _log.info("pod %s: %d files attached", printable(container.name), changed)
        left: dict[str, list[str]] = {}
        for one in outcomes:
            if one.what in (FAILED, LEFT):
                left.setdefault(one.why, []).append(one.target)
        for why, targets in left.items():
            name, text = printable(container.name), printable(why)
            _log.warning("pod %s: %s: %s", name, printable(", ".join(targets)), text)


def directory_of(cgroups_path: str) -> str:
    """Return the path of a container's cgroup, of which a runtime says linux.cgroupsPath.

    With systemd that is SLICE:PREFIX:NAME, and a slice is below those that its name begins with.
    """
    parts = cgroups_path.split(":")
    if len(parts) != 3:
        return cgroups_path
    slice_, prefix, name = parts
    words = slice_.removesuffix(".slice").split("-")
    above = [f"{'-'.join(words[: i + 1])}.slice" for i in range(len(words))]
    return "/".join(["", *above, f"{prefix}-{name}.scope"])


def is_on_host() -> bool:
    """Return whether this process has the mounts of the node's init."""
    try:
        return os.path.samestat(os.stat("/proc/1/ns/mnt"), os.stat("/proc/self/ns/mnt"))
    except OSError:
        return False


def _is_in(container: Running) -> bool:
    """Return whether the process is the container's, by its cgroup, and not a later one."""
    try:
        with open(f"/proc/{container.pid}/cgroup", encoding="utf-8", errors="replace") as file:
            return container.id in file.read()
    except OSError:
        return False


def _shares_with_host(container: containers.Container) -> bool:
    """Return whether it has the node's mounts, or its pid namespace and so no view of its own."""
    spaces = f"/proc/{container.pid}/ns/pid", "/proc/self/ns/pid"
    return work.is_host(container) or os.readlink(spaces[0]) == os.readlink(spaces[1])


def client(config: Config, wanted: Wanted) -> Client:
    """Return the client that keeps the plugin registered."""
    sys.setswitchinterval(0.0005)  # a container waits for an answer while others are attached
    names = frozenset(name.strip() for name in wanted.namespaces.split(",") if name.strip())
    env = env_command.chosen(wanted.env or "none")
    labelled = _labelled(wanted.selector) if wanted.selector else None
    selection = Selection(wanted.every, names, labelled or ())
    found = Client(wanted.socket, Plugin(Node(config, wanted.by), selection, env))
    if labelled is not None:
        # Containers of a namespace that is chosen only now are attached.
        labelled.start(found.register_again)
    return found


def _labelled(selector: str) -> Namespaces:
    """Return the namespaces that a selector chooses. Raise HostError."""
    try:
        from pylxcfs.kubernetes.api import Api
        from pylxcfs.kubernetes.namespaces import Namespaces
    except ImportError as error:
        raise HostError(
            f"labels of namespaces need the package {error.name}, which is not installed",
            "install it beside pylxcfs: pip install 'pylxcfs[webhook]'",
        ) from error
    return Namespaces(Api.of_pod(os.environ), selector)


def serve(client: Client, runtime_dir: str) -> None:
    """Be the plugin for ever, and say to metrics what it does."""
    try:
        client.latency.publish(runtime_dir)
    except OSError as error:
        _log.warning("no metrics of the NRI plugin: %s", error)
    client.run()


def run(config: Config, wanted: Wanted) -> None:
    """Be the plugin, until a signal."""
    if os.geteuid() != 0:
        raise HostError("only root may do this", "run it with sudo")
    serve(client(config, wanted), config.runtime_dir)
