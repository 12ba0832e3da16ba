"""proc/swaps: the container's swap as one area, so that it says what meminfo says.

The host's areas are nothing that a container could choose between. Size and use come from
views/memory.py, where `-u`, lowered limits and v1's swappiness are seen to. Name, type and
priority are LXCFS's; the header's tabs are those of today's kernel.
"""

from __future__ import annotations

from pylxcfs.formats import meminfo, swaps
from pylxcfs.units import KIB
from pylxcfs.views import memory as memory_view
from pylxcfs.views.model import Container, Host, Options

PATH = "proc/swaps"


def render(host: Host, container: Container, options: Options) -> bytes:
    memory = container.memory()
    if memory is None:
        return host.read(PATH)
    info = meminfo.read(host.recent("proc/meminfo"))
    seen = memory_view.amounts(info, memory, options)
    if not seen.swap_total:
        return swaps.HEADER
    # In the whole kB that meminfo shows, so that its total less its free is exactly this.
    used = (seen.swap_total // KIB - seen.swap_free // KIB) * KIB
    return swaps.render([swaps.Area(b"none", b"virtual", seen.swap_total, used, 0)])
