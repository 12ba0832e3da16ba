"""proc/swaps (swap_show, mm/swapfile.c): the container's swap as one area, in kB.

A container cannot choose between the host's areas, so they are not listed. Size and usage come
from views/memory.py (v1 memory.memsw.*, v2 memory.swap.*), so they agree with meminfo; `-u`,
lowered limits and v1's swappiness are handled there. Name, type and priority are those of LXCFS;
the header's tabs are those of current kernels.
"""

from __future__ import annotations

from pylxcfs.formats import meminfo, swaps
from pylxcfs.units import KIB
from pylxcfs.views import memory as memory_view
from pylxcfs.views.model import Container, Host, Options

PATH = "proc/swaps"


def render(host: Host, container: Container, options: Options) -> bytes:
    """Return the container's /proc/swaps."""
    memory = container.memory()
    if memory is None:
        return host.read(PATH)
    info = meminfo.read(host.recent("proc/meminfo"))
    seen = memory_view.amounts(info, memory, options)
    if not seen.swap_total:
        return swaps.HEADER
    # In whole kB, as in meminfo, so that this is exactly SwapTotal minus SwapFree.
    used = (seen.swap_total // KIB - seen.swap_free // KIB) * KIB
    return swaps.render([swaps.Area(b"none", b"virtual", seen.swap_total, used, 0)])
