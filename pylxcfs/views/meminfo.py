"""proc/meminfo (meminfo_proc_show, fs/proc/meminfo.c): the container's memory, in kB.

MemTotal, MemFree, MemAvailable, SwapTotal and SwapFree come from views/memory.py; other lines from
the cgroup's memory.stat (v1's total_* under v2's names), 0 where the kernel does not count them
for cgroups. Lines about the machine stay the host's: huge page pools, direct map, CMA, vmalloc's
address range, and CommitLimit and Committed_AS, since the kernel limits overcommit by the host's
sums and not by a cgroup. docs/files/meminfo.md lists them all.

Unlike LXCFS: file_mapped, file_dirty, file_writeback, anon_thp and kernel memory are the
container's on v2, Active is the sum of its two parts, and SwapCached is not part of Cached. No
line is cut to the host's except MemTotal, SwapTotal and MemAvailable, and Mlocked, which no cgroup
counts. Without a memory controller the file is the host's.
"""

from __future__ import annotations

from itertools import repeat

from pylxcfs.formats import meminfo
from pylxcfs.views.memory import amounts
from pylxcfs.views.model import Container, Host, Memory, Options

PATH = "proc/meminfo"

#: Lines that are one key of memory.stat: line -> key.
_STAT = {
    b"SwapCached": b"swapcached",
    b"Active(anon)": b"active_anon",
    b"Inactive(anon)": b"inactive_anon",
    b"Active(file)": b"active_file",
    b"Inactive(file)": b"inactive_file",
    b"Unevictable": b"unevictable",
    b"Zswap": b"zswap",
    b"Zswapped": b"zswapped",
    b"Dirty": b"file_dirty",
    b"Writeback": b"file_writeback",
    b"AnonPages": b"anon",
    b"Mapped": b"file_mapped",
    b"Shmem": b"shmem",
    b"SReclaimable": b"slab_reclaimable",
    b"SUnreclaim": b"slab_unreclaimable",
    b"KernelStack": b"kernel_stack",
    b"PageTables": b"pagetables",
    b"SecPageTables": b"sec_pagetables",
    b"VmallocUsed": b"vmalloc",
    b"Percpu": b"percpu",
    b"AnonHugePages": b"anon_thp",
    b"ShmemHugePages": b"shmem_thp",
    b"FileHugePages": b"file_thp",
}

#: Lines that no cgroup counts. (The page cache of block devices is part of Cached.)
_NOTHING = dict.fromkeys([b"Buffers", b"ShmemPmdMapped", b"FilePmdMapped"], 0)

#: Lines computed from others, or from limits.
_MADE = (
    *(b"MemTotal", b"MemFree", b"MemAvailable", b"SwapTotal", b"SwapFree"),
    *(b"Cached", b"Active", b"Inactive", b"Mlocked", b"KReclaimable", b"Slab"),
)

#: All lines with the container's values.
NAMES = (*_STAT, *_NOTHING, *_MADE)

_LINES = tuple(_STAT)
_KEYS = tuple(_STAT.values())
_ZEROS = repeat(0)


def render(host: Host, container: Container, options: Options) -> bytes:
    """Return the container's /proc/meminfo."""
    text = host.recent(PATH)
    memory = container.memory()
    return text if memory is None else build(text, memory, options)


def build(text: bytes, memory: Memory, options: Options) -> bytes:
    """Return the container's file, given the host's."""
    info = meminfo.read(text)
    total, free, available, swap_total, swap_free = amounts(info, memory, options)
    get = memory.stat.get
    kib = dict(zip(_LINES, [value >> 10 for value in map(get, _KEYS, _ZEROS)], strict=True))
    kib |= _NOTHING
    kib[b"MemTotal"] = total >> 10
    kib[b"MemFree"] = free >> 10
    kib[b"MemAvailable"] = available >> 10
    kib[b"SwapTotal"] = swap_total >> 10
    kib[b"SwapFree"] = swap_free >> 10
    # Programs subtract free memory, page cache and reclaimable slabs from MemTotal, without a check
    # (BusyBox). A limit may be below what is cached: pages of a tmpfs outlive an OOM kill.
    used = kib[b"MemTotal"] - kib[b"MemFree"]
    # memory.stat counts the swap cache in `file`, /proc/meminfo does not.
    kib[b"Cached"] = min(max((get(b"file", 0) >> 10) - kib[b"SwapCached"], 0), used)
    kib[b"SReclaimable"] = min(kib[b"SReclaimable"], used - kib[b"Cached"])
    kib[b"Active"] = kib[b"Active(anon)"] + kib[b"Active(file)"]
    kib[b"Inactive"] = kib[b"Inactive(anon)"] + kib[b"Inactive(file)"]
    # Cgroups do not count it; both are upper bounds.
    kib[b"Mlocked"] = min(kib[b"Unevictable"], (info.number(b"Mlocked") or 0) >> 10)
    kib[b"KReclaimable"] = kib[b"SReclaimable"]
    kib[b"Slab"] = kib[b"SReclaimable"] + kib[b"SUnreclaim"]
    if not options.zswap:
        kib[b"Zswap"] = kib[b"Zswapped"] = 0
    return info.filled(NAMES, kib)
