"""Parse memory.stat of a cgroup: "key value" lines.

v2: memory_stat_show (mm/memcontrol.c), bytes and events of the whole subtree. v1:
memcg1_stat_format (mm/memcontrol-v1.c), the cgroup's own values, and those of the subtree as
total_*; `parse_v1` returns the latter under the names of v2.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat

from pylxcfs.errors import FormatError

#: v1's name -> v2's. Not in it: total_pgpgin and total_pgpgout (pages charged and uncharged, while
#: vmstat's lines of these names are block I/O), total_swap (a usage).
_V2_NAMES = {
    b"total_cache": b"file",
    b"total_rss": b"anon",
    b"total_rss_huge": b"anon_thp",
    b"total_shmem": b"shmem",
    b"total_mapped_file": b"file_mapped",
    b"total_dirty": b"file_dirty",
    b"total_writeback": b"file_writeback",
    b"total_swapcached": b"swapcached",
    b"total_inactive_anon": b"inactive_anon",
    b"total_active_anon": b"active_anon",
    b"total_inactive_file": b"inactive_file",
    b"total_active_file": b"active_file",
    b"total_unevictable": b"unevictable",
    b"total_pgfault": b"pgfault",
    b"total_pgmajfault": b"pgmajfault",
    b"total_workingset_refault_anon": b"workingset_refault_anon",
    b"total_workingset_refault_file": b"workingset_refault_file",
}

#: Keys that only v1 has; `parse_v1` returns them under their own names. The limits are the minimum
#: over the cgroup and its ancestors.
V1_LIMIT = b"hierarchical_memory_limit"
V1_MEMSW_LIMIT = b"hierarchical_memsw_limit"
V1_SWAP = b"total_swap"

_RENAMED = _V2_NAMES | {name: name for name in (V1_LIMIT, V1_MEMSW_LIMIT, V1_SWAP)}
_UNKNOWN = b""


def parse(data: bytes) -> dict[bytes, int]:
    """Return the values of a v2 file by key."""
    fields = _fields(data)
    return _numbers(data, fields[::2], fields)


def parse_v1(data: bytes) -> dict[bytes, int]:
    """Return the subtree's values of a v1 file under v2's names.

    The keys V1_* keep their names.
    """
    fields = _fields(data)
    stat = _numbers(data, map(_RENAMED.get, fields[::2], repeat(_UNKNOWN)), fields)
    stat.pop(_UNKNOWN, None)
    return stat


def _fields(data: bytes) -> list[bytes]:
    fields = data.split()
    if len(fields) != 2 * data.count(b"\n"):
        raise FormatError("memory.stat", data)
    return fields


def _numbers(data: bytes, names: Iterable[bytes], fields: list[bytes]) -> dict[bytes, int]:
    try:
        return dict(zip(names, map(int, fields[1::2]), strict=True))
    except ValueError:
        raise FormatError("memory.stat", data) from None
