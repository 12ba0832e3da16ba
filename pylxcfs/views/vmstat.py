"""proc/vmstat (vmstat_show, mm/vmstat.c): the container's values where its cgroup has them.

Other lines are the host's. Gauges (nr_*, in pages) and events come from memory.stat, which has the
event names of vmstat (v1: total_*); pgpgin and pgpgout (kB) from the cgroup's block I/O, since
v1's memory.stat counts charged pages under these names; nr_free_pages is meminfo's MemFree. No
other line exceeds the host's. The view is off by default: a file that is partly the host's is
useful to vmstat(8), but misleads a program that adds up lines.

LXCFS has no such file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from pylxcfs.errors import FormatError, SourceError
from pylxcfs.formats import meminfo, vmstat
from pylxcfs.units import KIB
from pylxcfs.views import memory as memory_view
from pylxcfs.views.model import BlockIO, Container, Host, Memory, Options

PATH = "proc/vmstat"
HUGE_PAGE = "sys/kernel/mm/transparent_hugepage/hpage_pmd_size"

PAGE = os.sysconf("SC_PAGE_SIZE")

#: Gauges in pages: line -> key of memory.stat.
_PAGES = {
    b"nr_zone_inactive_anon": b"inactive_anon",
    b"nr_zone_active_anon": b"active_anon",
    b"nr_zone_inactive_file": b"inactive_file",
    b"nr_zone_active_file": b"active_file",
    b"nr_zone_unevictable": b"unevictable",
    b"nr_mlock": b"unevictable",  # an upper bound: cgroups do not count it
    b"nr_inactive_anon": b"inactive_anon",
    b"nr_active_anon": b"active_anon",
    b"nr_inactive_file": b"inactive_file",
    b"nr_active_file": b"active_file",
    b"nr_unevictable": b"unevictable",
    b"nr_slab_reclaimable": b"slab_reclaimable",
    b"nr_slab_unreclaimable": b"slab_unreclaimable",
    b"nr_anon_pages": b"anon",
    b"nr_mapped": b"file_mapped",
    b"nr_file_pages": b"file",
    b"nr_dirty": b"file_dirty",
    b"nr_writeback": b"file_writeback",
    b"nr_shmem": b"shmem",
    b"nr_page_table_pages": b"pagetables",
    b"nr_sec_page_table_pages": b"sec_pagetables",
    b"nr_swapcached": b"swapcached",
}

#: Gauges in transparent huge pages.
_HUGE_PAGES = {
    b"nr_anon_transparent_hugepages": b"anon_thp",
    b"nr_shmem_hugepages": b"shmem_thp",
    b"nr_file_hugepages": b"file_thp",
}


def render(host: Host, container: Container, options: Options) -> bytes:
    """Return the container's /proc/vmstat."""
    text = host.read(PATH)
    memory = container.memory()
    block_io = container.block_io()
    if memory is None and block_io is None:
        return text
    lines = vmstat.parse(text)
    own: dict[bytes, int] = {}
    if memory is not None:
        own.update(_gauges(lines, memory.stat, _PAGES, PAGE))
        own.update(_gauges(lines, memory.stat, _HUGE_PAGES, _huge_page(host)))
        own.update(_events(lines, memory))
        info = meminfo.read(host.read("proc/meminfo"))
        free = memory_view.amounts(info, memory, options).free // PAGE
        for name in (b"nr_free_pages", b"nr_free_pages_blocks"):
            if name in lines:  # as MemFree, not cut to the host's
                lines[name] = b"%d" % free
    if block_io is not None:
        own.update(_traffic(block_io))
    for name, value in own.items():
        if name in lines and value < int(lines[name]):
            lines[name] = b"%d" % max(value, 0)
    return vmstat.render(lines)


def _gauges(
    lines: Mapping[bytes, bytes],
    stat: Mapping[bytes, int],
    keys: Mapping[bytes, bytes],
    unit: int | None,
) -> dict[bytes, int]:
    if unit is None:
        return {}
    return {line: stat[key] // unit for line, key in keys.items() if key in stat and line in lines}


def _events(lines: Mapping[bytes, bytes], memory: Memory) -> dict[bytes, int]:
    """Return events, and gauges that are computed or in other units."""
    stat = memory.stat
    events = {name: value for name, value in stat.items() if name in lines}
    if b"file_dirty" in stat and b"file_writeback" in stat:
        pending = stat[b"file_dirty"] + stat[b"file_writeback"]
        events[b"nr_zone_write_pending"] = pending // PAGE
    if b"kernel_stack" in stat:
        events[b"nr_kernel_stack"] = stat[b"kernel_stack"] // KIB
    return events


def _traffic(block_io: Mapping[tuple[int, int], BlockIO]) -> dict[bytes, int]:
    # A bio that passes through two devices (dm on a disk) may be counted for both. The host's
    # value counts it once, and is the upper bound.
    read = sum([device.read_bytes for device in block_io.values()])
    written = sum([device.write_bytes for device in block_io.values()])
    return {b"pgpgin": read // KIB, b"pgpgout": written // KIB}


def _huge_page(host: Host) -> int | None:
    """Return the size of a transparent huge page; None without them."""
    try:
        size = host.read(HUGE_PAGE).strip()
    except SourceError:
        return None
    if not size.isdigit() or len(size) > 20 or int(size) == 0:
        raise FormatError(HUGE_PAGE, size)
    return int(size)
