"""sys/devices/system/cpu: CPUs outside the view appear offline.

    online, offline         the CPUs of views/cpus.py, and the rest of `possible`
    cpuN/online             1 or 0, where the host has the file (cpu0 often has none)
    cpuN/topology, cache    absent for a CPU outside the view, as for an offline one; elsewhere
                            their lists and masks contain visible CPUs only
    present, enabled        the host's, or the visible CPUs with SysCpu.HIDE, which hides cpuN too
    everything else         the host's; `possible` and `kernel_max` always

Printed by drivers/base/{cpu,topology,cacheinfo}.c. v1 and v2: the cpuset and the quota, through
views/cpus.py. With CpuNumbering.PACKED the CPUs 0..N-1 count as the visible ones, and their
directories are those of the host's CPUs of the same number.

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
        case [name, "topology", file] if _number(name) is not None:
            if file.endswith("_list"):
                return _narrowed_list(path, host, container, options)
            if file.endswith(_MASKS):
                return _narrowed_mask(path, host, container, options)
        case [name, "cache", _, "shared_cpu_list"] if _number(name) is not None:
            return _narrowed_list(path, host, container, options)
        case [name, "cache", _, "shared_cpu_map"] if _number(name) is not None:
            return _narrowed_mask(path, host, container, options)
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


def _narrowed_list(path: str, host: Host, container: Container, options: Options) -> bytes | None:
    shown = frozenset(_shown(host, container, options))
    numbers = shown.intersection(cpulist.parse(host.read(path)))
    # Empty: the CPU itself is outside the view, and only an old handle reads the file.
    return cpulist.render(numbers) + b"\n" if numbers else None


def _narrowed_mask(path: str, host: Host, container: Container, options: Options) -> bytes | None:
    shown = frozenset(_shown(host, container, options))
    numbers, width = cpulist.parse_mask(host.read(path))
    numbers = tuple([cpu for cpu in numbers if cpu in shown])
    return cpulist.mask(numbers, width) + b"\n" if numbers else None
