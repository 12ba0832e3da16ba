"""The emulated files. VIEWS and TREES are the tables of what is served.

A view is a pure function of what `Host` and `Container` (model.py) read. It knows neither FUSE nor
cgroup paths. Values that several files share are computed in one module: cpus.py (visible CPUs),
cputime.py (their CPU times), memory.py (totals and swap).
"""

from __future__ import annotations

from collections.abc import Mapping

from pylxcfs.views import (
    cpuinfo,
    devices,
    diskstats,
    loadavg,
    meminfo,
    pressure,
    slabinfo,
    stat,
    swaps,
    syscpu,
    sysmemory,
    sysnode,
    uptime,
    vmstat,
)
from pylxcfs.views.table import Render, TreeView, View

__all__ = ["DEVICES", "TREES", "VIEWS", "Render", "TreeView", "View"]


#: The place of a row is part of the node ids that the kernel holds: append only.
VIEWS: tuple[View, ...] = (
    View(
        path="proc/meminfo",
        render=meminfo.render,
        host="proc/meminfo",
        summary="the container's memory and swap: limit, usage and free memory",
    ),
    View(
        path="proc/cpuinfo",
        render=cpuinfo.render,
        host="proc/cpuinfo",
        summary="the CPUs the container may use",
        by_personality=True,
    ),
    View(
        path="proc/stat",
        render=stat.render,
        host="proc/stat",
        summary="the container's own CPU time, spread over the CPUs it sees",
    ),
    View(
        path="proc/uptime",
        render=uptime.render,
        host="proc/uptime",
        summary="age of the container's init, and the idle time of its CPUs",
    ),
    View(
        path="proc/loadavg",
        render=loadavg.render,
        host="proc/loadavg",
        summary="load averages of the container's own threads",
        lives=10,  # at the default --cache-ttl 1 s; samples are 5 s apart
    ),
    View(
        path="proc/swaps",
        render=swaps.render,
        host="proc/swaps",
        summary="the swap the container may use, as one area",
    ),
    View(
        path="proc/diskstats",
        render=diskstats.render,
        host="proc/diskstats",
        summary="the container's own I/O on the devices it has touched",
    ),
    View(
        path="proc/slabinfo",
        render=slabinfo.render,
        host="proc/slabinfo",
        summary="the container's slabs on cgroup v1, the host's on v2",
    ),
    View(
        path="proc/vmstat",
        render=vmstat.render,
        host="proc/vmstat",
        summary="paging of the container where its cgroup counts it (off by default)",
        enabled=lambda options: options.vmstat,
    ),
    View(
        path="proc/pressure/cpu",
        render=pressure.render_cpu,
        host="proc/pressure/cpu",
        summary="stalls of the container for CPU time",
        writable=True,
    ),
    View(
        path="proc/pressure/memory",
        render=pressure.render_memory,
        host="proc/pressure/memory",
        summary="stalls of the container for memory",
        writable=True,
    ),
    View(
        path="proc/pressure/io",
        render=pressure.render_io,
        host="proc/pressure/io",
        summary="stalls of the container for I/O",
        writable=True,
    ),
    View(
        path="proc/pressure/irq",
        render=pressure.render_irq,
        host="proc/pressure/irq",
        summary="time of the container lost to interrupts",
        writable=True,
    ),
)

#: What is below these directories of sysfs, by path.
TREES: Mapping[str, TreeView] = {
    "sys/devices/system/cpu": TreeView(syscpu.render, syscpu.hidden),
    "sys/devices/system/node": TreeView(sysnode.render, sysnode.hidden),
    "sys/devices/system/memory": TreeView(sysmemory.render, sysmemory.hidden),
}

#: What is in directories of sysfs that have a link for each device, with --enable-devices.
DEVICES = TreeView(devices.render, devices.hidden)
