"""What a process may use: asked by a library, a command, and over a socket.

    from pylxcfs import resources
    print(resources.of().memory.limit_bytes)

It needs no daemon: cgroups are read as this process sees them. How each value is made is in the
rooms sources/ and views/, which the files of pylxcfs are made of as well.
"""

from pylxcfs.resources import advice
from pylxcfs.resources.advice import Advice
from pylxcfs.resources.model import (
    Cgroup,
    Cpu,
    Device,
    Devices,
    HugePages,
    Load,
    Memory,
    Processes,
    Resources,
    Security,
    Source,
    Swap,
)
from pylxcfs.resources.query import Query, devices, of
from pylxcfs.resources.watch import Change, watch

__all__ = [
    "Advice",
    "Cgroup",
    "Change",
    "Cpu",
    "Device",
    "Devices",
    "HugePages",
    "Load",
    "Memory",
    "Processes",
    "Query",
    "Resources",
    "Security",
    "Source",
    "Swap",
    "advice",
    "devices",
    "of",
    "watch",
]
