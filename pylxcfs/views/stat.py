"""proc/stat (show_stat, fs/proc/stat.c): the container's CPU times, in USER_HZ ticks.

CPU lines: one for each CPU of views/cpus.py with the times of views/cputime.py; iowait, irq,
softirq, steal and guest are 0, since cgroups do not count them. The "cpu" line is the sum over all
CPUs that the container has seen, rounded once, as the kernel's contains offline CPUs. v1:
cpuacct.usage_percpu and usage_all, else cpuacct.stat; v2: cpu.stat.
procs_running is the container's if load averages are on. intr, ctxt, btime, processes,
procs_blocked and softirq are the host's; btime on purpose, since start times of processes are
relative to it. In a time namespace the kernel moves both (timens_sub_boottime), and so does this
view.

Unlike LXCFS, which on v2 shows the host's times, and on v1 the host's idle time as the
container's; and the host's btime in a time namespace.
"""

from __future__ import annotations

from pylxcfs.formats import stat
from pylxcfs.units import NS_PER_S, NS_PER_TICK
from pylxcfs.views import cpus, cputime
from pylxcfs.views.model import Container, Host, Options


def render(host: Host, container: Container, options: Options) -> bytes:
    """Return the container's /proc/stat."""
    text = _shifted(host.recent("proc/stat"), container.clock_offset_ns())
    seen = cpus.visible(host, container, options)
    times = cputime.read(container, seen, host)
    if times is None:
        return _host_lines(text, seen, options)
    lines = [stat.total_line(*[ns // NS_PER_TICK for ns in times.total])]
    lines += [
        stat.cpu_line(
            name,
            user_ns // NS_PER_TICK,
            nice_ns // NS_PER_TICK,
            system_ns // NS_PER_TICK,
            idle_ns // NS_PER_TICK,
        )
        for name, (user_ns, nice_ns, system_ns, idle_ns) in zip(
            cpus.shown(seen, options), times.cpus, strict=True
        )
    ]
    lines.append(_rest(stat.rest(text), container, options))
    return b"".join(lines)


def _shifted(text: bytes, offset_ns: int) -> bytes:
    """Return the host's file with the boot time that a time namespace shows."""
    seconds = stat.booted(text) if offset_ns else None
    if seconds is None:
        return text
    return stat.replaced(text, b"btime", max(0, (seconds * NS_PER_S - offset_ns) // NS_PER_S))


def _host_lines(text: bytes, seen: tuple[int, ...], options: Options) -> bytes:
    """Return the host's lines of the visible CPUs, without CPU accounting."""
    host = stat.parse(text)
    lines = {
        name: host.cpus[cpu] for cpu, name in cpus.names(seen, options).items() if cpu in host.cpus
    }
    if not lines:
        return text
    total = tuple([sum(column) for column in zip(*lines.values(), strict=False)])
    return stat.render(stat.Stat(total, lines, host.rest))


def _rest(tail: bytes, container: Container, options: Options) -> bytes:
    """Return the lines after the CPU lines."""
    load = container.load() if options.loadavg else None
    if load is None:
        return tail
    # The reader itself is running.
    return stat.replaced(tail, b"procs_running", max(1, load.running))
