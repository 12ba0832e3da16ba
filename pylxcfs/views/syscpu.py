"""sys/devices/system/cpu: CPUs outside the view appear offline.

    online, offline         the CPUs of views/cpus.py, and the rest of `possible`
    cpuN/online             1 or 0, where the host has the file (cpu0 often has none)
    cpuN/topology, cache    absent for a CPU outside the view, as for an offline one; elsewhere
                            their lists and masks contain visible CPUs only
    present, enabled        the host's, or the visible CPUs with SysCpu.HIDE, which hides cpuN too
    cpuN/cpu_capacity       the host's, of the CPU that appears as N
    everything else         the host's; `possible` and `kernel_max` always

Printed by drivers/base/{cpu,topology,cacheinfo}.c. v1 and v2: the cpuset and the quota, through
views/cpus.py. With CpuNumbering.PACKED the visible CPUs appear as cpu0..cpuN-1: their topology,
cache and cpu_capacity are those of the real CPUs, with the numbers in lists and masks mapped the
same way. Which files and links a directory has is that of the host's cpu0..cpuN-1.

Unlike LXCFS, which narrows `online` only.
"""

from __future__ import annotations

from pylxcfs.errors import SourceError
from pylxcfs.formats import cpulist
from pylxcfs.views import cpus
from pylxcfs.views.model import Container, Host, Options, SysCpu

TREE = "sys/devices/system/cpu/"

#: Directories that the kernel removes from cpuN when the CPU goes offline.
_ONLINE_ONLY = ("topology", "cache")

#: Suffixes of masks in cpuN/topology (core_cpus, thread_siblings, ...); lists add _list.
_MASKS = ("_cpus", "_siblings")


def render(path: str, host: Host, container: Container, options: Options) -> bytes | None:
    """Return the container's text of a file; None: the host's file.

    `path` is relative to the root.
    """
    match path.removeprefix(TREE).split("/"):
        case ["online"]:
            return _line(_shown(host, container, options))
        case ["offline"]:
            possible = cpulist.parse(host.read(TREE + "possible"))
            shown = frozenset(_shown(host, container, options))
            return _line(tuple([cpu for cpu in possible if cpu not in shown]))
        case ["present" | "enabled"] if options.sys_cpu is SysCpu.HIDE:
            return _line(_shown(host, container, options))
        case [name, "online"] if (number := _number(name)) is not None:
            try:
                host.read(path)
            except SourceError:
                return None
            return b"1\n" if number in _shown(host, container, options) else b"0\n"
        case [name, *below] if (number := _number(name)) is not None:
            return _of_cpu(number, below, host, container, options)
    return None


def hidden(path: str, host: Host, container: Container, options: Options) -> bool:
    """Return whether the container does not see `path`."""
    parts = path.removeprefix(TREE).split("/")
    number = _number(parts[0])
    if number is None:
        return False
    if options.sys_cpu is not SysCpu.HIDE and (len(parts) < 2 or parts[1] not in _ONLINE_ONLY):
        return False
    return number not in _shown(host, container, options)


def _shown(host: Host, container: Container, options: Options) -> tuple[int, ...]:
    return cpus.shown(cpus.visible(host, container, options), options)


def _number(name: str) -> int | None:
    """Return the N of "cpuN"; None for other names (cpufreq)."""
    digits = name.removeprefix("cpu")
    return int(digits) if digits != name and digits.isdecimal() and len(digits) <= 5 else None


def _line(numbers: tuple[int, ...]) -> bytes:
    return cpulist.render(numbers) + b"\n"


def _of_cpu(
    number: int, below: list[str], host: Host, container: Container, options: Options
) -> bytes | None:
    """Return the file `below` of the real CPU that appears as `number`; None: the host's file."""
    match below:
        case ["topology", file]:
            is_list, is_mask = file.endswith("_list"), file.endswith(_MASKS)
        case ["cache", _, file]:
            is_list, is_mask = file == "shared_cpu_list", file == "shared_cpu_map"
        case ["cpu_capacity"]:
            is_list = is_mask = False
        case _:
            return None
    names = cpus.names(cpus.visible(host, container, options), options)
    real = next((cpu for cpu, shown in names.items() if shown == number), None)
    # Not visible: only an old handle reads the file.
    path = "/".join([f"{TREE}cpu{number if real is None else real}", *below])
    if is_list:
        numbers = [names[cpu] for cpu in cpulist.parse(host.read(path)) if cpu in names]
        return cpulist.render(numbers) + b"\n" if numbers else None
    if is_mask:
        members, width = cpulist.parse_mask(host.read(path))
        numbers = [names[cpu] for cpu in members if cpu in names]
        return cpulist.mask(numbers, width) + b"\n" if numbers else None
    return None if real in (None, number) else host.read(path)
