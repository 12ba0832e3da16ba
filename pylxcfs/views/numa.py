"""Which NUMA nodes a container sees: the one list behind the node tree and the memory blocks.

A node with memory is visible if the cpuset's mems (v1 cpuset.effective_mems, v2
cpuset.mems.effective) have it; one without memory always is, as mems never name it.
"""

from __future__ import annotations

from pylxcfs.errors import SourceError
from pylxcfs.formats import cpulist
from pylxcfs.views.model import Container, Host

TREE = "sys/devices/system/node/"


def visible(host: Host, container: Container) -> tuple[int, ...]:
    """Return the nodes that the container sees, ascending; all, if it would be none."""
    online = numbers(host, "online")
    mems = container.mems()
    if mems is None:
        return online
    with_memory = _with_memory(host, online)
    return tuple([n for n in online if n in mems or n not in with_memory]) or online


def numbers(host: Host, name: str) -> tuple[int, ...]:
    """Return the numbers in one of the tree's lists, `name` relative to the tree."""
    return cpulist.parse(host.read(TREE + name))


def _with_memory(host: Host, online: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return numbers(host, "has_memory")
    except SourceError:
        return online  # Linux before 3.8
