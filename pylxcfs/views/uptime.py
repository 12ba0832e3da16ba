"""proc/uptime (uptime_proc_show, fs/proc/uptime.c): age of init and idle time, in seconds.

Idle is the idle time of the "cpu" line of /proc/stat (views/cputime.py): visible CPUs times age,
minus the CPU time used, where CPUs that left the view keep what they had. The age contains the
time for which the host was suspended, and idle does not, as in the kernel's file. v1: cpuacct, v2:
cpu.stat; the age is computed from init's start time in /proc/PID/stat on both.

Unlike LXCFS, which shows as idle on v1 the age minus the CPU time used, and on v2 the age.
"""

from __future__ import annotations

from pylxcfs.formats import uptime
from pylxcfs.views import cpus, cputime
from pylxcfs.views.model import Container, Host, Options


def render(host: Host, container: Container, options: Options) -> bytes:
    """Return the container's /proc/uptime."""
    seen = cpus.visible(host, container, options)
    up_ns = max(0, host.now_ns() - container.started_ns())
    times = cputime.read(container, seen, host)
    if times is None:
        # No CPU accounting: the host's idle time, at most the age of all visible CPUs.
        host_idle_ns = uptime.parse(host.read("proc/uptime")).idle_ns
        return uptime.render(uptime.Uptime(up_ns, min(host_idle_ns, len(seen) * up_ns)))
    return uptime.render(uptime.Uptime(up_ns, times.total[3]))
