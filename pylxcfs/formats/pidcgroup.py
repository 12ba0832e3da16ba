"""Parse /proc/PID/cgroup: the cgroups of one process.

Printed by proc_cgroup_show (kernel/cgroup/cgroup.c):

    4:cpu,cpuacct:/docker/x        v1: hierarchy, controllers, path
    1:name=systemd:/docker/x       v1 without a controller
    0::/docker/x                   v2

Paths are relative to the root of the reader's cgroup namespace; a path outside it starts with
"/..". v1 prints "/" for a thread that has ended. The path of a removed v2 cgroup (of a zombie) ends
in " (deleted)"; so may the name of one that lives, and v1 has no such mark.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import Final

from pylxcfs.errors import FormatError

#: Key of the v2 cgroup in the result of `parse`.
UNIFIED = ""

#: The kernel's mark of a removed v2 cgroup.
DELETED = " (deleted)"

_V1: Final = re.compile(rb"^[1-9]\d*:", re.MULTILINE)
_BELOW_V1_ROOT: Final = re.compile(rb"^[1-9]\d*:[^:\n]*:/.", re.MULTILINE)


def parse(data: bytes) -> Mapping[str, str]:
    """Return the path by controller.

    The key of v2 is `UNIFIED`, that of a named v1 hierarchy "name=x".
    """
    paths: dict[str, str] = {}
    seen: dict[str, str] = {}
    for line in data.split(b"\n"):
        if not line:
            continue
        fields = line.split(b":", 2)
        if len(fields) != 3 or not fields[2].startswith(b"/"):
            raise FormatError("cgroup", line)
        # Saves memory: controllers are the same in all containers, and a container has the same
        # path in many hierarchies.
        path = os.fsdecode(fields[2])
        path = seen.setdefault(path, path)
        for controller in os.fsdecode(fields[1]).split(","):
            paths[sys.intern(controller)] = path
    return paths


def may_have_ended(data: bytes) -> bool:
    """Return whether the text may be that of a thread that has ended: "/" in all of v1."""
    return _BELOW_V1_ROOT.search(data) is None and _V1.search(data) is not None
