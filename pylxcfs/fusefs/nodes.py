"""Numbers that carry their own meaning: node ids and file handles.

A node id is (pid namespace, cgroup namespace, file index); a handle is (pid namespace, cgroup
namespace of the view that it reads, flags, serial). So a server that starts in the place of a
dead one understands every number that the kernel still holds, with no table to save.

    63        43 42        22 21           0
    | pidns    | cgroupns    | file index  |   node id
    | pidns    | cgroupns    | flags| serial |   handle (4 flag bits, 18 of serial)

Namespace inode numbers are small above 0xEFFFFF00 (include/linux/proc_fs.h numbers the initial
ones 0xEFFFFFxx, dynamic ones count up from 0xF0000000 and are reused lowest first), so 21 bits
hold their offset: two million namespaces. Offset 0 is "none". Pure; knows no file's name.
"""

from __future__ import annotations

from typing import Final, NamedTuple

_BASE: Final = 0xEFFFFF00
_BITS: Final = 21
_LIMIT: Final = 1 << _BITS
_INDEX_BITS: Final = 22
INDEX_LIMIT: Final = 1 << _INDEX_BITS
_PID_SHIFT: Final = _INDEX_BITS + _BITS
_OFFSET_MASK: Final = _LIMIT - 1
_INDEX_MASK: Final = INDEX_LIMIT - 1
_PAIR_MASK: Final = (1 << 2 * _BITS) - 1

#: The view of this handle is that of another container than the node's owner.
STRANGER: Final = 1 << 21
#: Reads of this handle fill the page cache.
CACHED: Final = 1 << 20
#: The reader has a 32-bit personality, and the file depends on that.
COMPAT: Final = 1 << 19
#: Of cached handles: it was opened by a thread of which it was not known how it reads.
WATCHED: Final = 1 << 18
SERIAL_MASK: Final = (1 << 18) - 1

# File indexes. Never renumber: a mount that outlives an upgrade keeps node ids.
ROOT: Final = 1
PROC: Final = 2
PRESSURE: Final = 3
SYS: Final = 4
DEVICES: Final = 5
SYSTEM: Final = 6
BY_PIDNS: Final = 7
SELF: Final = 8
CPU_LINK: Final = 9
NODE_LINK: Final = 10
MEMORY_LINK: Final = 11
OWN_ROOT: Final = 32
OWN_PROC: Final = 33
OWN_PRESSURE: Final = 34
OWN_SYS: Final = 35
OWN_DEVICES: Final = 36
OWN_SYSTEM: Final = 37
#: Symlink of view i in the shared proc/ is LINKS + i; its file in a container's is FILES + i.
LINKS: Final = 64
FILES: Final = 128
#: A file below the container's sys/devices/system/{cpu,node,memory}: SYSFS + the inode number of
#: the host's file.
SYSFS: Final = 256


class Owner(NamedTuple):
    """Whose numbers: inode numbers of a pid namespace and, only where processes in one pid
    namespace have different ones (Kubernetes' shareProcessNamespace), of a cgroup namespace."""

    pidns: int
    cgroupns: int


def pair(owner: tuple[int, int]) -> int:
    """Pack an owner into 42 bits. Raise ValueError if a namespace's number does not fit."""
    pidns, cgroupns = owner
    pid_offset = pidns - _BASE
    group_offset = cgroupns - _BASE if cgroupns else 0
    if not (0 < pid_offset < _LIMIT and 0 <= group_offset < _LIMIT):
        raise ValueError(f"namespace numbers {owner} do not fit into a node id")
    return pid_offset << _BITS | group_offset


def node(owner_pair: int, index: int) -> int:
    """Build the node id of a file of the packed owner (0: of nobody)."""
    return owner_pair << _INDEX_BITS | index


def index_of(nodeid: int) -> int:
    """The file index of a node id."""
    return nodeid & _INDEX_MASK


def pair_of(number: int) -> int:
    """The packed owner of a node id or handle; 0 for the shared part of the tree."""
    return number >> _INDEX_BITS & _PAIR_MASK


def unpack(owner_pair: int) -> Owner:
    """The owner that `pair` packed."""
    group_offset = owner_pair & _OFFSET_MASK
    return Owner((owner_pair >> _BITS) + _BASE, group_offset + _BASE if group_offset else 0)


def handle(viewer_pair: int, flags: int, serial: int) -> int:
    """Build a handle; only the low 18 bits of `serial` count."""
    return viewer_pair << _INDEX_BITS | flags | serial & SERIAL_MASK


def inode_number(nodeid: int) -> int:
    """A number for st_ino that fits 32 bits, for programs without large-file support.

    Different nodes may share one; the kernel itself goes by the node id.
    """
    return (nodeid ^ nodeid >> 32 ^ nodeid >> 21) & 0x7FFFFFFF or 1


def name(owner: Owner) -> bytes:
    """The directory name below by-pidns/."""
    text = b"%d" % owner.pidns
    return text + b".%d" % owner.cgroupns if owner.cgroupns else text


def parse_name(text: bytes) -> Owner | None:
    """The owner that a name below by-pidns/ means; None if it is no such name."""
    pidns, dot, cgroupns = text.partition(b".")
    if not pidns.isdigit() or (dot and not cgroupns.isdigit()) or len(text) > 22:
        return None
    owner = Owner(int(pidns), int(cgroupns) if dot else 0)
    if name(owner) != text:
        return None
    try:
        pair(owner)
    except ValueError:
        return None
    return owner
