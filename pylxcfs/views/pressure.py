"""proc/pressure/{cpu,memory,io,irq} (psi_show, kernel/sched/psi.c): stalls of the container.

v2: the cgroup's cpu.pressure, memory.pressure, io.pressure and irq.pressure, as the kernel prints
them: averages in percent, totals in microseconds. v1 has no such files: there, and where the
cgroup's file is missing or empty, this is the host's file.

Unlike LXCFS, which always shows the host's io, and has no irq.
"""

from __future__ import annotations

from pylxcfs.views.model import Container, Host, Options


def render_cpu(host: Host, container: Container, options: Options) -> bytes:
    """Return the container's /proc/pressure/cpu."""
    return container.pressure("cpu") or host.read("proc/pressure/cpu")


def render_memory(host: Host, container: Container, options: Options) -> bytes:
    """Return the container's /proc/pressure/memory."""
    return container.pressure("memory") or host.read("proc/pressure/memory")


def render_io(host: Host, container: Container, options: Options) -> bytes:
    """Return the container's /proc/pressure/io."""
    return container.pressure("io") or host.read("proc/pressure/io")


def render_irq(host: Host, container: Container, options: Options) -> bytes:
    """Return the container's /proc/pressure/irq."""
    return container.pressure("irq") or host.read("proc/pressure/irq")
