"""What a process would read from a file, without a mount (`pylxcfs show`)."""

from __future__ import annotations

import psutil

from pylxcfs.errors import SourceError, UserError
from pylxcfs.server.server import Computation
from pylxcfs.server.settings import Settings
from pylxcfs.tree.nodes import FILES, SYSFS
from pylxcfs.views import VIEWS


def show(settings: Settings, path: str, pid: int) -> bytes:
    """Return what process `pid` would read from `path` ("proc/meminfo").

    Raise UserError for a path that is not served or a process that does not exist.
    """
    if not psutil.pid_exists(pid):
        raise UserError(f"there is no process {pid}", "give --pid a process that runs")
    computation = Computation(settings)
    index = _index(computation, path.strip("/"))
    containers = computation.containers
    owner = containers.identify(pid)
    if owner is None:
        raise UserError(f"the namespaces of process {pid} cannot be read", "run this as root")
    if owner.pidns == containers.host_pidns:
        container = containers.host_caller(pid)
    else:
        container = containers.get(owner, pid)
    try:
        return computation.contents.render(index, container)
    except SourceError as error:
        raise UserError(
            f"the host's {path} cannot be read: {error}", "see whether the file exists"
        ) from error


def _index(computation: Computation, path: str) -> int:
    for i, view in enumerate(VIEWS):
        if view.path == path:
            return FILES + i
    index = None
    if path.startswith("sys/devices/system/"):
        index = computation.sysfs.index(path)
    if index is None or index < SYSFS:
        names = " ".join(view.path for view in VIEWS)
        raise UserError(
            f"no such file is served: {path}",
            f"served are {names} and what is below sys/devices/system/cpu, node and memory",
        )
    return index
