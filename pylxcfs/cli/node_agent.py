"""`node-agent`: what a DaemonSet runs on each node.

    agent        the container's main process: prepares the node, starts a keeper, shows its log,
                 is the NRI plugin; a stop of the pod ends it
    keeper       its child, in cgroups of its own, with a root filesystem of its own and no pipe
                 of the pod: goes on when the pod ends, with its servers, until the next agent
                 takes the mounts over

The next agent tells the keeper to end. That forks a holder (keeper/holder.py), from which the
agent's own keeper takes both connections. Readers wait meanwhile, and none fails. Where the keeper
cannot leave the pod's cgroups it ends with the pod; the next one heals the containers.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sys
import threading
from functools import partial
from typing import Final

from pylxcfs.attach import views
from pylxcfs.cli import attach, engines, launch, nri, runtime
from pylxcfs.cli.options import Config
from pylxcfs.errors import HostError, InstanceError, UserError
from pylxcfs.keeper import child, holder, instance
from pylxcfs.kubernetes import latency, node

_log = logging.getLogger(__name__)

#: Flags that the agent sets: keeper and containers depend on them.
FLAGS: Final = {"keep_mounted": True, "heal": True}
CGROUP: Final = "pylxcfs-node"
_FILE: Final = "proc/uptime"
_PROBE_S: Final = 2.0
#: The keeper gives a server 7 s to end.
_END_MS: Final = 15_000
_TAIL_MS: Final = 500
_MOST_LOG: Final = 1 << 20
_PASSED_ON: Final = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT)


def run(config: Config, cgroup: str, wanted: nri.Wanted | None) -> int:
    """Prepare the node, and look after a keeper until a signal; return the exit code."""
    _need_root()
    with runtime.writing(config.runtime_dir):
        os.makedirs(config.runtime_dir, mode=0o755, exist_ok=True)
    _take_over(config)
    _prepare(config)
    with _Log(os.path.join(config.runtime_dir, "keeper.log")) as keepers_log:
        keeper = child.fork(
            lambda: _become_keeper(config, cgroup, keepers_log.path), dies_with_parent=False
        )
        child.block_signals()  # before there are threads
        if wanted is not None:
            client = nri.client(config, wanted)
            plugin = partial(nri.serve, client, config.runtime_dir)
            threading.Thread(target=plugin, daemon=True, name="nri").start()
        return _watch(keeper, keepers_log)


def _take_over(config: Config) -> None:
    """End the keeper of an earlier agent; a holder keeps its mounts then."""
    pid = instance.owner(config.pid_path)
    if pid is None:
        return
    try:
        words = node.read_file(f"/proc/{pid}/cmdline").split(b"\0")
    except OSError:
        return  # it has ended
    # The second is that of an agent's child which is about to become the keeper.
    if not {b"--keep-mounted", b"node-agent"} & {*words}:
        raise InstanceError(
            f"an instance runs on this node that is no node agent's: pid {pid}",
            "end it with 'pylxcfs unmount', or run no node agent here",
        )
    same = instance.mountpoint_of(pid) == config.mountpoint
    number = signal.SIGTERM if same else child.END_FOR_GOOD
    _log.info("taking over the mounts of the keeper %d", pid)
    try:
        pidfd = os.pidfd_open(pid)
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    if not poller.poll(_END_MS):
        _log.error("the keeper %d does not end, and is killed; containers will be healed", pid)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        poller.poll(_END_MS)
    os.close(pidfd)


def _prepare(config: Config) -> None:
    """Clear stale mounts, and make the links below the mountpoint."""
    if not holder.is_held(config.runtime_dir):
        count = node.clear([config.mountpoint, runtime.caller_mount(config)])
        if count:
            _log.warning("%d stale mounts were removed; containers are healed", count)
    for path in node.make_skeleton(config.mountpoint, engines.served()):
        _log.warning("%s/%s is no link: a file of somebody", config.mountpoint, path)


def _become_keeper(config: Config, cgroup: str, path: str) -> int:
    """Leave the pod, as far as it goes, and become the keeper."""
    output = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for standard, number in ((0, null), (1, output), (2, output)):
        os.dup2(number, standard)
    os.chdir("/")
    problems = node.leave_cgroups(cgroup)
    if not nri.is_on_host():
        try:
            node.leave_root()
        except OSError as error:
            problems.append(f"no root filesystem of its own: {error.strerror}")
    for problem in problems:
        _log.warning("the mounts may not outlive this pod: %s", problem)
    try:
        launch.become_keeper(config)
    except UserError as error:
        sys.stderr.write(f"pylxcfs: {error}\npylxcfs: {error.hint}\n")
        return error.exit_code


def _watch(keeper: child.Child, keepers_log: _Log) -> int:
    signals = child.signal_fd()
    poller = select.poll()
    poller.register(signals, select.POLLIN)
    poller.register(keeper.pidfd, select.POLLIN)
    while True:
        ready = {number for number, _ in poller.poll(_TAIL_MS)}
        keepers_log.show()
        if keeper.pidfd in ready:
            code = keeper.reap()
            keepers_log.show()
            return code if code >= 0 else 1
        if signals in ready:
            for number in child.read_signals(signals):
                if number in (signal.SIGTERM, signal.SIGINT):
                    _log.info("the agent ends; the keeper %d goes on", keeper.pid)
                    return 0
                if number in (*_PASSED_ON, child.END_FOR_GOOD):
                    keeper.send(number)


class _Log:
    """The file to which the keeper writes: a pipe to the pod would end with it."""

    def __init__(self, path: str) -> None:
        self.path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._number = os.open(path, flags, 0o600)
        self._shown = os.fstat(self._number).st_size

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._number)

    def show(self) -> None:
        """Copy what is new to stderr."""
        while data := os.pread(self._number, 1 << 16, self._shown):
            self._shown += len(data)
            sys.stderr.buffer.write(data)
        sys.stderr.flush()
        if self._shown > _MOST_LOG:
            os.ftruncate(self._number, 0)
            self._shown = 0


def probe(config: Config) -> int:
    """Read through both mounts; return 0 if they answer, else 1."""
    places = [(config.mountpoint, _FILE), (runtime.caller_mount(config), _FILE)]
    why = node.probe(places, _PROBE_S)
    if why is not None:
        sys.stderr.write(f"pylxcfs: {why}\n")
    return 0 if why is None else 1


def remove(config: Config, cgroup: str) -> None:
    """Leave the node as if no agent had been there."""
    _need_root()
    if instance.owner(config.pid_path) is not None:
        for one in attach.detach((), True, None):
            if one["error"]:
                _log.warning("container %s: %s", one["name"], one["error"])
    launch.unmount(config)
    node.clear([config.mountpoint, runtime.caller_mount(config)])
    node.remove_skeleton(config.mountpoint, views.paths())
    node.remove_cgroups(cgroup)
    for name in ("keeper.log", latency.SOCKET):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(config.runtime_dir, name))


def _need_root() -> None:
    if os.geteuid() != 0:
        raise HostError("only root may do this", "run it with sudo, in a pod: privileged: true")
