"""proc/slabinfo (slab_show, mm/slab_common.c): the container's slabs on v1.

v1: memory.kmem.slabinfo. v2 has no such file, and since Linux 5.9 all cgroups share one set of
slabs, so this is the host's file; the sums of the container are in meminfo. The same as LXCFS 6.
"""

from __future__ import annotations

from pylxcfs.views.model import Container, Host, Options

PATH = "proc/slabinfo"


def render(host: Host, container: Container, options: Options) -> bytes:
    """Return the container's /proc/slabinfo."""
    # Where slabs are shared, v1's file exists and is empty (or has only a header).
    return container.slabinfo() or host.read(PATH)
