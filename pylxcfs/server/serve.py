"""What the commands `serve` and `show` do: become a server of a mounted connection, or show a file.

The parts are plugged together in server.py. The mount is the keeper's and stays when a server
ends.
"""

from __future__ import annotations

import faulthandler
import fcntl
import os
import resource
import signal
import sys

from pylxcfs.cli.options import Config
from pylxcfs.errors import SourceError, UserError
from pylxcfs.fusefs.nodes import FILES, SYSFS
from pylxcfs.server.heartbeat import HEALTHY, beat
from pylxcfs.server.parts import Server
from pylxcfs.views import VIEWS

#: The interpreter's default of 5 ms is what a reader would wait while the load is sampled.
_SWITCH_INTERVAL_S = 0.0005

#: Descriptors for 500 containers; the table of so many takes 128 KiB of the kernel's memory.
_TABLE = 16384


def serve(config: Config, connection_fd: int, init_fd: int, heartbeat_fd: int) -> int:
    """Serve on a mounted connection; return the exit code (0: unmounted, or told to end)."""
    faulthandler.enable()
    faulthandler.register(signal.SIGQUIT, all_threads=True)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    _raise_descriptor_limit()
    _widen_descriptor_table(connection_fd)
    server = Server(config)
    server.load_state()
    connection = server.connect(connection_fd, init_fd)
    beat(heartbeat_fd, HEALTHY)
    # Readers are served from here on, unless this is the mount's first server. The rest takes
    # as long to load as everything before it.
    import trio

    from pylxcfs.server import tasks as serving

    trio.run(serving.run, server, connection, heartbeat_fd)
    server.save_state()
    return 0


def show(config: Config, path: str, pid: int) -> bytes:
    """Return what process `pid` would read from `path` ("proc/meminfo"), without a mount.

    Raise UserError for a path that is not served or a process that is not there.
    """
    import psutil  # the server, which is here to stay, has no use for it

    if not psutil.pid_exists(pid):
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
            f"served are {names} and what is below sys/devices/system/cpu, node and memory",
        )
    return index


def _raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _widen_descriptor_table(descriptor: int) -> None:
    """Make room for descriptors while this process has one thread.

    With more of them the kernel waits for all CPUs (expand_fdtable in fs/file.c calls
    synchronize_rcu) each time the table doubles, and a reader with it: 10 to 30 ms.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, min(soft, _TABLE) - 1))
