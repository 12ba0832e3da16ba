"""/proc/loadavg (loadavg_proc_show, fs/proc/loadavg.c): load of the container's own threads.

The averages are sampled by the daemon (on v1 and v2 from the threads of the whole cgroup
subtree) for containers whose load is read. Where there is no sample, and with load averages
switched off, this is the host's file.

Unlike LXCFS, which stops counting three cgroups deep, and shows the highest thread id of the
host as the last pid.
"""

from __future__ import annotations

from pylxcfs.formats import loadavg
from pylxcfs.views.model import Container, Host, Options


def render(host: Host, container: Container, options: Options) -> bytes:
    """Return the container's /proc/loadavg."""
    load = container.load() if options.loadavg else None
    if load is None:
        return host.read("proc/loadavg")
    return loadavg.render(loadavg.LoadAvg(load.averages, load.running, load.total, load.last_pid))
