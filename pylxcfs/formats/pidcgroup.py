"""/proc/PID/cgroup (kernel/cgroup/cgroup.c, proc_cgroup_show): the cgroups of one process.

    4:cpu,cpuacct:/docker/x        v1: hierarchy, controllers, path
    1:name=systemd:/docker/x       v1 without a controller
    0::/docker/x                   v2

Paths are relative to the root of the reader's cgroup namespace; one outside it starts with
"/..". The path of a removed v2 cgroup (of a zombie) ends in " (deleted)".
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from pylxcfs.errors import FormatError

#: The key of the v2 cgroup in what `parse` returns.
UNIFIED = ""

DELETED = " (deleted)"


def parse(data: bytes) -> Mapping[str, str]:
    """Return the path by controller; `UNIFIED` is v2's, "name=x" a named v1 hierarchy's."""
    paths: dict[str, str] = {}
    seen: dict[str, str] = {}
    for line in data.split(b"\n"):
        if not line:
            continue
        fields = line.split(b":", 2)
        if len(fields) != 3 or not fields[2].startswith(b"/"):
            raise FormatError("cgroup", line)
        # Thousands of containers have the same controllers, and each one path in many hierarchies.
        path = os.fsdecode(fields[2])
        path = seen.setdefault(path, path)
        for controller in os.fsdecode(fields[1]).split(","):
            paths[sys.intern(controller)] = path
    return paths
