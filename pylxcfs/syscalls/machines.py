"""Numbers and structures of the two calls, by architecture.

From the kernel's tables (arch/*/entry/syscalls) and struct sysinfo (include/uapi/linux/sysinfo.h).
Pure.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

#: uptime, loads[3], totalram, freeram, sharedram, bufferram, totalswap, freeswap, procs, padding,
#: totalhigh, freehigh, mem_unit, padding up to the size that the kernel copies.
_SYSINFO_64: Final = struct.Struct("=q3Q6QHHI2QI4x")
_SYSINFO_32: Final = struct.Struct("=i3I6IHH2II8x")
#: The largest mem_unit of 32-bit programs is a page (do_sysinfo, kernel/sys.c).
_PAGE: Final = 4096
_WORD_MAX: Final = (1 << 32) - 1
#: Load averages are fixed point with so many bits (SI_LOAD_SHIFT).
LOAD_SHIFT: Final = 16


class SysInfo(NamedTuple):
    """What sysinfo(2) returns; memory and swap in bytes."""

    #: Seconds, begun ones included.
    uptime: int
    #: The averages with LOAD_SHIFT bits behind the point.
    loads: tuple[int, int, int]
    total: int
    free: int
    shared: int
    buffers: int
    swap_total: int
    swap_free: int
    #: Threads.
    procs: int


class Machine(NamedTuple):
    """How programs of one architecture call."""

    sysinfo: int
    affinity: int
    #: Bytes of a long: of the mask's words, and which struct sysinfo.
    word: int

    def pack(self, info: SysInfo) -> bytes:
        """Return struct sysinfo."""
        amounts = info[2:8]
        procs = min(info.procs, 0xFFFF)
        if self.word == 8:
            return _SYSINFO_64.pack(info.uptime, *info.loads, *amounts, procs, 0, 0, 0, 0, 1)
        unit, shift = 1, 0
        if max(info.total, info.swap_total) > _WORD_MAX:
            while unit < _PAGE:
                unit <<= 1
                shift += 1
        words = [min(amount >> shift, _WORD_MAX) for amount in amounts]
        uptime = min(info.uptime, (1 << 31) - 1)
        return _SYSINFO_32.pack(uptime, *info.loads, *words, procs, 0, 0, 0, unit)


#: By AUDIT_ARCH_* (include/uapi/linux/audit.h).
MACHINES: Final = {
    0xC000003E: Machine(99, 204, 8),  # x86-64; x32's numbers have bit 30 set
    0x40000003: Machine(116, 242, 4),  # i386
    0xC00000B7: Machine(179, 123, 8),  # aarch64
    0x40000028: Machine(116, 242, 4),  # arm
    0xC00000F3: Machine(179, 123, 8),  # riscv64
    0xC0000102: Machine(179, 123, 8),  # loongarch64
    0xC0000015: Machine(116, 223, 8),  # ppc64le
    0x80000016: Machine(116, 240, 8),  # s390x
}
