"""proc/loadavg (loadavg_proc_show, fs/proc/loadavg.c): load of the container's threads.

The averages are those of a sampler (sources/loadavg.py) that counts the threads of the whole
cgroup subtree every 5 seconds, on v1 and v2 alike. The first read starts the sampler; until it has
counted, averages are 0 (or those of the server before), and the number of threads is that of
pids.current. At least one thread runs, as the kernel counts the reader. With load averages
switched off, and for a container in the root cgroup, this is the host's file.

Unlike LXCFS, which stops counting three cgroups deep, and shows the host's id of a thread as the
last pid.
"""

from __future__ import annotations

from pylxcfs.formats import loadavg
from pylxcfs.views.model import Container, Host, Options


def render(host: Host, container: Container, options: Options) -> bytes:
    """Return the container's /proc/loadavg."""
    load = container.load() if options.loadavg else None
    if load is None:
        return host.read("proc/loadavg")
    running = max(1, load.running)  # the reader itself
    total = max(running, load.total)
    return loadavg.render(loadavg.LoadAvg(load.averages, running, total, load.last_pid))
