"""Which container a process belongs to: the inode numbers of its namespaces.

The pid namespace is the key. Containers that share one (Kubernetes' shareProcessNamespace) differ
in their cgroup namespaces; Registry.identify compares those, as it knows the namespace's init.
`fair_key` is what limits and fair queues go by. Knows no cgroup and keeps nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import NamedTuple

from pylxcfs.errors import PylxcfsError
from pylxcfs.sources.initpid import MOST_LEVELS, NS_GET_PARENT
from pylxcfs.sources.kept import Descriptor, read_whole


class Identity(NamedTuple):
    """A container, by its pid namespace and its cgroup namespace.

    `cgroupns` tells containers in one pid namespace apart. It is 0 for processes in the cgroup
    namespace of the pid namespace's init, or of the server. (pid namespace of the server, 0) is the
    host.
    """

    pidns: int
    cgroupns: int


# Reading the link ("pid:[4026531836]") costs half of stat(2), for which the kernel makes an inode
# and drops it at once.


def pidns_of(pid: int, proc: str = "/proc") -> int:
    """Return the inode number of a thread's pid namespace.

    0 if it cannot be read. Kernel: proc_ns_readlink (fs/proc/namespaces.c).
    """
    try:
        return int(os.readlink(f"{proc}/{pid}/ns/pid")[5:-1])
    except (OSError, ValueError):
        return 0


def cgroupns_of(pid: int, proc: str = "/proc") -> int:
    """Return the inode number of a thread's cgroup namespace.

    0 if it cannot be read, or the kernel has none. Kernel: proc_ns_readlink.
    """
    try:
        return int(os.readlink(f"{proc}/{pid}/ns/cgroup")[8:-1])
    except (OSError, ValueError):
        return 0


def outermost(pid: int, own: int, proc: str = "/proc") -> int:
    """Return the outermost pid namespace around a process, below `own`.

    That is its container, however many namespaces it has made inside: `own` for a process that is
    in that one. 0 if it cannot be read.
    """
    try:
        namespace = Descriptor.open(f"{proc}/{pid}/ns/pid")
        found = os.fstat(namespace.number).st_ino
        for _ in range(MOST_LEVELS):
            if found == own:
                return own
            parent = Descriptor(fcntl.ioctl(namespace.number, NS_GET_PARENT))
            number = os.fstat(parent.number).st_ino
            if number == own:
                break
            namespace, found = parent, number
    except (PylxcfsError, OSError):
        return 0
    return found


#: Outermost pid namespace (0: not known), user, text of /proc/PID/cgroup.
FairKey = tuple[int, int, bytes]


def fair_key(pid: int, uid: int, own: int, proc: str = "/proc") -> FairKey:
    """Return what limits and fair queues of a process go by.

    `uid`: the user that it counts for, if it is in pid namespace `own`, which is the server's.
    Processes have the same key that

        are in one container, with the pid namespaces that it makes inside
        are in pid namespace `own`, of one user other than root
        are in pid namespace `own`, of root and in one cgroup
        have ended, or cannot be seen from here

    Root is in `--pid=host` containers and in the host's services. They differ in their cgroups,
    which a container without privileges cannot change: cgroupfs is read-only in it (where the
    cgroup tree is bound in it, it can make cgroups, and has a share for each). Neither a
    cgroup nor a cgroup namespace tells other users apart: a user makes as many as he likes of
    both (`unshare -UC`, systemd's delegated cgroups) and would have a share for each.
    """
    pidns = outermost(pid, own, proc)
    if pidns != own:
        return pidns, 0, b""
    text = b""
    if uid == 0:
        with contextlib.suppress(PylxcfsError):
            text = read_whole(f"{proc}/{pid}/cgroup")
    return own, uid, text
