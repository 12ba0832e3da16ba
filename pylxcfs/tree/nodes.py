"""Node ids: numbers that carry their own meaning.

A node id is (pid namespace, cgroup namespace, file index). So a server that replaces another one
understands every number that the kernel still holds, with no table to save.

    63        43 42        22 21           0
    | pidns    | cgroupns    | file index  |   own mount
    | 0                      | file index  |   links and directories that all share; caller mount

    63  62        58 57            22 21           0
    | 1 | hierarchy | cgroup         | name        |   caller mount, below cgroup/

Namespace inode numbers are small above 0xEFFFFF00 (include/linux/proc_fs.h numbers the initial
ones 0xEFFFFFxx, dynamic ones count up from 0xF0000000 and are reused lowest first), so 21 bits
hold their offset: two million namespaces. Offset 0 is "none".

A cgroup is the number that the kernel gives its directory in cgroupfs (kernfs_node_id, which is
never given twice), a file of it that and a hash of the file's name.

`names` is the table of names outside of sysfs, for servers and the rescue server. Pure.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Final, NamedTuple

_BASE: Final = 0xEFFFFF00
_BITS: Final = 21
_LIMIT: Final = 1 << _BITS
_INDEX_BITS: Final = 22
INDEX_LIMIT: Final = 1 << _INDEX_BITS

# File indexes. Never renumber: a mount that outlives an upgrade keeps node ids.
ROOT: Final = 1
#: Directories of the shared part of the own mount.
PROC: Final = 2
SYS: Final = 4
DEVICES: Final = 5
SYSTEM: Final = 6
OWN: Final = 7
#: Links to sys/devices/system/{cpu,node,memory} and proc/pressure.
CPU_LINK: Final = 9
NODE_LINK: Final = 10
MEMORY_LINK: Final = 11
PRESSURE_LINK: Final = 12
#: The link to cgroup/ of the caller mount.
CGROUP_LINK: Final = 13
#: Directories of one container, and of the caller mount (whose root is ROOT).
VIEW_ROOT: Final = 32
VIEW_PROC: Final = 33
VIEW_PRESSURE: Final = 34
VIEW_SYS: Final = 35
VIEW_DEVICES: Final = 36
VIEW_SYSTEM: Final = 37
#: Of the caller mount only: the directory of cgroup hierarchies, and the link to the hierarchy of
#: controller i of HIERARCHIES, where that has several controllers.
CGROUP: Final = 38
CGROUP_ALIASES: Final = 40
#: The link to view i is LINKS + i; its file is FILES + i.
LINKS: Final = 64
FILES: Final = 128
#: A file below a tree of sysfs (sysfs.py): SYSFS + the inode number of the host's file.
SYSFS: Final = 256

#: Directories by path: in the shared part of the own mount, and in a view.
_DIRECTORIES: Final = {
    "": (ROOT, VIEW_ROOT),
    "proc": (PROC, VIEW_PROC),
    "sys": (SYS, VIEW_SYS),
    "sys/devices": (DEVICES, VIEW_DEVICES),
    "sys/devices/system": (SYSTEM, VIEW_SYSTEM),
}
_PRESSURE: Final = "proc/pressure"
#: Directories that are there if a directory of devices is served below them.
DEVICE_DIRECTORIES: Final = {
    "sys/class": (20, 60),
    "sys/bus": (21, 61),
    "sys/bus/pci": (22, 62),
    "sys/dev": (23, 63),
}
#: Directories of sysfs with a link for each device (views/devices.py). The place is part of node
#: ids: append only. The link to directory i is DEVICE_LINKS + i.
DEVICES_OF_SYSFS: Final = (
    "sys/block",
    "sys/bus/pci/devices",
    "sys/dev/block",
    "sys/dev/char",
    "sys/class/accel",
    "sys/class/block",
    "sys/class/bsg",
    "sys/class/drm",
    "sys/class/hidraw",
    "sys/class/infiniband",
    "sys/class/infiniband_mad",
    "sys/class/infiniband_verbs",
    "sys/class/input",
    "sys/class/kfd",
    "sys/class/mem",
    "sys/class/misc",
    "sys/class/nvme",
    "sys/class/nvme-generic",
    "sys/class/scsi_generic",
    "sys/class/sound",
    "sys/class/tpm",
    "sys/class/tty",
    "sys/class/usbmisc",
    "sys/class/vfio",
    "sys/class/video4linux",
    "sys/class/virtio-ports",
)
#: Half of the numbers between LINKS and FILES.
DEVICE_LINKS: Final = 96

#: Numbers of cgroup hierarchies: the place of their first controller here; "" is v2. Only append.
HIERARCHIES: Final = (
    "", "name=systemd", "cpuset", "cpu", "cpuacct", "blkio", "memory", "devices", "freezer",
    "net_cls", "perf_event", "net_prio", "hugetlb", "pids", "rdma", "misc", "dmem", "debug",
    "name=elogind",
)  # fmt: skip
_CGROUP: Final = 1 << 63
_HIERARCHY_SHIFT: Final = 58
_CGROUP_BITS: Final = 36
#: A number of kernfs: so many bits, and behind bit 32 how often they were all used.
_LOW_BITS: Final = 31
_TREE_LINKS: Final = {
    "sys/devices/system/cpu": CPU_LINK,
    "sys/devices/system/node": NODE_LINK,
    "sys/devices/system/memory": MEMORY_LINK,
} | {path: DEVICE_LINKS + i for i, path in enumerate(DEVICES_OF_SYSFS)}
Children = dict[int, dict[bytes, int]]


class Owner(NamedTuple):
    """A container, by the inode numbers of namespaces.

    `cgroupns` is 0 unless processes of one pid namespace have different cgroup namespaces
    (Kubernetes' shareProcessNamespace).
    """

    pidns: int
    cgroupns: int


def pair(owner: tuple[int, int]) -> int:
    """Pack an owner into 42 bits. Raise ValueError if the number of a namespace does not fit."""
    pidns, cgroupns = owner
    pid_offset = pidns - _BASE
    group_offset = cgroupns - _BASE if cgroupns else 0
    if not (0 < pid_offset < _LIMIT and 0 <= group_offset < _LIMIT):
        raise ValueError(f"namespace numbers {owner} do not fit into a node id")
    return pid_offset << _BITS | group_offset


def node(owner_pair: int, index: int) -> int:
    """Build the node id of a file of the packed owner (0: shared by all)."""
    return owner_pair << _INDEX_BITS | index


def index_of(node_id: int) -> int:
    """Return the file index of a node id."""
    return node_id % INDEX_LIMIT


def pair_of(node_id: int) -> int:
    """Return the packed owner of a node id; 0 for what all share."""
    return node_id >> _INDEX_BITS


def pidns_offset(owner_pair: int) -> int:
    """Return the offset of a packed owner's pid namespace: below two million."""
    return owner_pair >> _BITS


def unpack(owner_pair: int) -> Owner:
    """Return the owner that `pair` packed."""
    group_offset = owner_pair % _LIMIT
    return Owner((owner_pair >> _BITS) + _BASE, group_offset + _BASE if group_offset else 0)


def is_cgroup(node_id: int) -> bool:
    """Return whether a node of the caller mount is below cgroup/."""
    return node_id >= _CGROUP


def cgroup_node(hierarchy: int, number: int, name: bytes = b"") -> int:
    """Build the node id of a cgroup's directory, or of a file in it.

    `number`: st_ino of the directory in cgroupfs. Raise ValueError where it does not fit: after
    64 billion cgroups and their files.
    """
    low = number & (1 << _LOW_BITS) - 1
    packed = number >> 32 << _LOW_BITS | low
    if packed >> _CGROUP_BITS or number & 0xFFFFFFFF != low:
        raise ValueError(f"the number {number} of a cgroup does not fit into a node id")
    head = _CGROUP | hierarchy << _HIERARCHY_SHIFT | packed << _INDEX_BITS
    return head | (name_number(name) if name else 0)


def cgroup_of(node_id: int) -> tuple[int, int, int]:
    """Return hierarchy, number of the directory, and number of the file's name or 0."""
    packed = node_id >> _INDEX_BITS & (1 << _CGROUP_BITS) - 1
    number = packed >> _LOW_BITS << 32 | packed & (1 << _LOW_BITS) - 1
    return node_id >> _HIERARCHY_SHIFT & 31, number, index_of(node_id)


def name_number(name: bytes) -> int:
    """Return the number of a file's name in node ids, never 0."""
    return zlib.crc32(name) % (INDEX_LIMIT - 1) + 1


def inode_number(node_id: int) -> int:
    """Return a number for st_ino that fits 32 bits, for programs without large-file support.

    Different nodes may share one; the kernel itself goes by the node id.
    """
    return (node_id ^ node_id >> 32 ^ node_id >> 21) & 0x7FFFFFFF or 1


def names(served: Mapping[str, int]) -> tuple[Children, dict[int, str]]:
    """Return the names in each directory, and the path in a view of each link.

    `served`: the files of views, and the trees of sysfs, that this host has. proc/pressure is one
    link to a directory, so that it can be bound.
    """
    directories = _DIRECTORIES | {
        path: pair
        for path, pair in DEVICE_DIRECTORIES.items()
        if any(name.startswith(f"{path}/") for name in served)
    }
    shared = {path: index for path, (index, _) in directories.items()} | {"own": OWN}
    view = {path: index for path, (_, index) in directories.items()}
    links: dict[int, str] = {}
    for path, index in served.items():
        if path.startswith(f"{_PRESSURE}/"):
            view[_PRESSURE] = VIEW_PRESSURE
            links[PRESSURE_LINK] = _PRESSURE
        else:
            links[_TREE_LINKS.get(path, index - FILES + LINKS)] = path
    by_path = {path: link for link, path in links.items()}
    return _children(shared, by_path) | _children(view, served), links


def _children(directories: Mapping[str, int], others: Mapping[str, int]) -> Children:
    found: Children = {index: {} for index in directories.values()}
    for path, index in {**others, **directories}.items():
        directory, _, name = path.rpartition("/")
        if path:
            found[directories[directory]][name.encode()] = index
    return found
