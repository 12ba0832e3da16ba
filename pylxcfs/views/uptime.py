"""/proc/uptime (uptime_proc_show, fs/proc/uptime.c): age of the container's init, idle time.

Idle is the sum over the visible CPUs of what /proc/stat shows (views/cputime.py): CPUs times
age, minus what the container used. v1: cpuacct, v2: cpu.stat; the age is init's start time in
/proc/PID/stat on both.

Unlike LXCFS, whose idle is the age of one CPU minus usage, and on v2 the age itself.
"""

from __future__ import annotations

from pylxcfs.formats import uptime
from pylxcfs.views import cpus, cputime
from pylxcfs.views.model import Container, Host, Options


def render(host: Host, container: Container, options: Options) -> bytes:
    """Return the container's /proc/uptime."""
    seen = cpus.visible(host, container, options)
    now_ns = host.now_ns()
    up_ns = max(0, now_ns - container.started_ns())
    times = cputime.read(container, seen, now_ns)
    if times is None:
        # Nobody counts what it used; it cannot have been idle for longer than its CPUs were.
        host_idle_ns = uptime.parse(host.read("proc/uptime")).idle_ns
        return uptime.render(uptime.Uptime(up_ns, min(host_idle_ns, len(seen) * up_ns)))
    return uptime.render(uptime.Uptime(up_ns, sum([idle_ns for _, _, _, idle_ns in times])))
