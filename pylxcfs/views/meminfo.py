"""proc/meminfo: the container's memory in the kernel's own lines.

Totals and what is left come from views/memory.py; the other lines from the cgroup's memory.stat
(v1's total_* under v2's names), 0 where the kernel does not count them for cgroups. Lines about
the machine stay the host's: huge page pools, direct map, CMA, vmalloc's address range, and
CommitLimit and Committed_AS, since overcommit is refused by the host's sums and not by a cgroup.
docs/files/meminfo.md lists them all.

Unlike LXCFS: file_mapped, file_dirty, file_writeback, anon_thp and kernel memory are the
container's on v2, Active is the sum of its two parts, SwapCached is not part of Cached, and no
line says more than the host's. Without a memory controller the file is the host's.
"""

from __future__ import annotations

from pylxcfs.formats import meminfo
from pylxcfs.views.memory import amounts
from pylxcfs.views.model import Container, Host, Memory, Options

PATH = "proc/meminfo"


def render(host: Host, container: Container, options: Options) -> bytes:
    text = host.read(PATH)
    memory = container.memory()
    return text if memory is None else build(text, memory, options)


def build(text: bytes, memory: Memory, options: Options) -> bytes:
    """Return the container's file, given the host's."""
    info = meminfo.read(text)
    total, free, available, swap_total, swap_free = amounts(info, memory, options)
    stat = memory.stat.get
    active_anon = stat(b"active_anon", 0)
    inactive_anon = stat(b"inactive_anon", 0)
    active_file = stat(b"active_file", 0)
    inactive_file = stat(b"inactive_file", 0)
    unevictable = stat(b"unevictable", 0)
    swap_cached = stat(b"swapcached", 0)
    cached = stat(b"file", 0) - swap_cached  # memory.stat counts swap cache as file pages
    reclaimable = stat(b"slab_reclaimable", 0)
    unreclaimable = stat(b"slab_unreclaimable", 0)
    zswap = options.zswap
    return info.capped(
        NAMES,
        {
            b"MemTotal": total >> 10,
            b"MemFree": free >> 10,
            b"MemAvailable": available >> 10,
            b"Buffers": 0,  # the cgroup counts block devices' pages with files'
            b"Cached": cached >> 10 if cached > 0 else 0,
            b"SwapCached": swap_cached >> 10,
            b"Active": (active_anon >> 10) + (active_file >> 10),
            b"Inactive": (inactive_anon >> 10) + (inactive_file >> 10),
            b"Active(anon)": active_anon >> 10,
            b"Inactive(anon)": inactive_anon >> 10,
            b"Active(file)": active_file >> 10,
            b"Inactive(file)": inactive_file >> 10,
            b"Unevictable": unevictable >> 10,
            b"Mlocked": unevictable >> 10,  # not counted for cgroups: at most this
            b"SwapTotal": swap_total >> 10,
            b"SwapFree": swap_free >> 10,
            b"Zswap": stat(b"zswap", 0) >> 10 if zswap else 0,
            b"Zswapped": stat(b"zswapped", 0) >> 10 if zswap else 0,
            b"Dirty": stat(b"file_dirty", 0) >> 10,
            b"Writeback": stat(b"file_writeback", 0) >> 10,
            b"AnonPages": stat(b"anon", 0) >> 10,
            b"Mapped": stat(b"file_mapped", 0) >> 10,
            b"Shmem": stat(b"shmem", 0) >> 10,
            b"KReclaimable": reclaimable >> 10,
            b"Slab": (reclaimable >> 10) + (unreclaimable >> 10),
            b"SReclaimable": reclaimable >> 10,
            b"SUnreclaim": unreclaimable >> 10,
            b"KernelStack": stat(b"kernel_stack", 0) >> 10,
            b"PageTables": stat(b"pagetables", 0) >> 10,
            b"SecPageTables": stat(b"sec_pagetables", 0) >> 10,
            b"VmallocUsed": stat(b"vmalloc", 0) >> 10,
            b"Percpu": stat(b"percpu", 0) >> 10,
            b"AnonHugePages": stat(b"anon_thp", 0) >> 10,
            b"ShmemHugePages": stat(b"shmem_thp", 0) >> 10,
            b"ShmemPmdMapped": 0,  # not counted for cgroups
            b"FileHugePages": stat(b"file_thp", 0) >> 10,
            b"FilePmdMapped": 0,  # not counted for cgroups
        },
    )


#: The lines that are the container's. Every one is in the mapping that `build` makes.
NAMES = (
    b"MemTotal",
    b"MemFree",
    b"MemAvailable",
    b"Buffers",
    b"Cached",
    b"SwapCached",
    b"Active",
    b"Inactive",
    b"Active(anon)",
    b"Inactive(anon)",
    b"Active(file)",
    b"Inactive(file)",
    b"Unevictable",
    b"Mlocked",
    b"SwapTotal",
    b"SwapFree",
    b"Zswap",
    b"Zswapped",
    b"Dirty",
    b"Writeback",
    b"AnonPages",
    b"Mapped",
    b"Shmem",
    b"KReclaimable",
    b"Slab",
    b"SReclaimable",
    b"SUnreclaim",
    b"KernelStack",
    b"PageTables",
    b"SecPageTables",
    b"VmallocUsed",
    b"Percpu",
    b"AnonHugePages",
    b"ShmemHugePages",
    b"ShmemPmdMapped",
    b"FileHugePages",
    b"FilePmdMapped",
)
