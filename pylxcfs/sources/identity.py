"""Which container a process belongs to, told by the inode numbers of its namespaces.

The pid namespace is the key. Containers that share one (Kubernetes' shareProcessNamespace) are
told apart by their cgroup namespaces; Registry.identify does that, as it needs to know the
namespace's init. Knows no cgroup and keeps nothing.
"""

from __future__ import annotations

import os
from typing import NamedTuple


class Identity(NamedTuple):
    """A container: its pid namespace, and its cgroup namespace where that tells more.

    `cgroupns` is 0 for processes in the cgroup namespace of the pid namespace's init, or of
    the daemon. (pid namespace of the daemon, 0) is the host.
    """

    pidns: int
    cgroupns: int


# Reading the link ("pid:[4026531836]") is half the price of stat(), for which the kernel makes an
# inode that it throws away at once.


def pidns_of(pid: int, proc: str = "/proc") -> int:
    """Return the inode of a process's (or thread's) pid namespace; 0 if it cannot be seen."""
    try:
        return int(os.readlink(f"{proc}/{pid}/ns/pid")[5:-1])
    except (OSError, ValueError):
        return 0


def cgroupns_of(pid: int, proc: str = "/proc") -> int:
    """Return the inode of a process's cgroup namespace; 0 if it cannot be seen, or has none."""
    try:
        return int(os.readlink(f"{proc}/{pid}/ns/cgroup")[8:-1])
    except (OSError, ValueError):
        return 0
