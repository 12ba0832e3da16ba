"""proc/slabinfo: the container's slabs on cgroup v1 (memory.kmem.slabinfo), else the host's.

Cgroup v2 has no such file, and Linux 5.9 and later keep one set of slabs for all cgroups, so
there is nothing to show but the host's; meminfo has the container's sums. Same as LXCFS 6.
"""

from __future__ import annotations

from pylxcfs.views.model import Container, Host, Options

PATH = "proc/slabinfo"


def render(host: Host, container: Container, options: Options) -> bytes:
    # v1's file stays but reads empty (or as its header) where slabs are shared.
    return container.slabinfo() or host.read(PATH)
