"""The NUMA nodes that a container sees.

The node tree (sysnode.py) and the memory blocks (sysmemory.py) both use this module, so they
agree. A node with memory is visible if it is in the cpuset's mems (v1 cpuset.effective_mems, v2
cpuset.mems.effective). A node without memory is always visible, since mems never contain it.
"""

from __future__ import annotations

from pylxcfs.errors import SourceError
from pylxcfs.formats import cpulist
from pylxcfs.views.model import Container, Host

TREE = "sys/devices/system/node/"


def visible(host: Host, container: Container) -> tuple[int, ...]:
    """Return the visible nodes, ascending; all, if none would be visible."""
    online = numbers(host, "online")
    mems = container.mems()
    if mems is None:
        return online
    with_memory = _with_memory(host, online)
    return tuple([n for n in online if n in mems or n not in with_memory]) or online


def numbers(host: Host, name: str) -> tuple[int, ...]:
    """Return the numbers in a list, `name` relative to the node tree."""
    return cpulist.parse(host.read(TREE + name))


def _with_memory(host: Host, online: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return numbers(host, "has_memory")
    except SourceError:
        return online  # Linux before 3.8
