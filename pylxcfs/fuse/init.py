"""FUSE_INIT of the two mounts: constant answers, given by the one that mounts.

The kernel sends INIT once in the life of a connection. What is negotiated here holds for every
server that will ever serve it. Pure; standard library only, as the keeper gives the answers.

Flags (include/uapi/linux/fuse.h). Not set on purpose: ASYNC_READ (without OPEN it can deadlock in
reclaim from Linux 6.9 on), WRITEBACK_CACHE, CACHE_SYMLINKS (links are resolved per caller),
EXPORT_SUPPORT, NO_OPENDIR_SUPPORT and CACHE_DIR (one caller's listing would be cached for all).
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from pylxcfs.fuse import wire

BIG_WRITES: Final = 1 << 5
AUTO_INVAL_DATA: Final = 1 << 12
DO_READDIRPLUS: Final = 1 << 13
ASYNC_DIO: Final = 1 << 15
PARALLEL_DIROPS: Final = 1 << 18
MAX_PAGES: Final = 1 << 22
INIT_EXT: Final = 1 << 30
# Bits of flags2.
HAS_RESEND: Final = 1 << (39 - 32)
ALLOW_IDMAP: Final = 1 << (40 - 32)

#: The own mount: a changed size or mtime drops the pages, and a page read takes many pages.
OWN: Final = AUTO_INVAL_DATA | PARALLEL_DIROPS | MAX_PAGES
#: The caller mount: what libfuse negotiates for pyfuse3, which lists directories with attributes.
#: Without ASYNC_DIO io_uring puts a text together of several renderings.
CALLER: Final = BIG_WRITES | DO_READDIRPLUS | ASYNC_DIO | PARALLEL_DIROPS | MAX_PAGES

#: Protocol that is spoken: 7.31 has everything that is needed; libfuse 3.10 speaks it, too.
_MAJOR: Final = 7
_OLDEST_MINOR: Final = 31
_NEWEST_MINOR: Final = 40

#: struct fuse_init_in: major, minor, max_readahead, flags, flags2, 11 unused words.
_IN: Final = struct.Struct("=IIIII44x")
#: struct fuse_init_out: major, minor, max_readahead, flags, max_background, congestion_threshold,
#: max_write, time_gran, max_pages, map_alignment, flags2, 7 unused words.
_OUT: Final = struct.Struct("=IIIIHHIIHHI28x")

_MAX_READAHEAD: Final = 131072
#: RELEASEs that the kernel hands out at once. With the default of 12, those of a container with
#: many threads pile up in memory that is charged to the container, until it is killed for that.
_MAX_BACKGROUND: Final = 0xFFFF
#: Pages of one READ.
_READ_PAGES: Final = 32


class Offer(NamedTuple):
    """What the kernel's INIT request offers."""

    unique: int
    minor: int
    flags: int
    flags2: int

    @property
    def can_resend(self) -> bool:
        """Whether the kernel hands out again what a killed server had taken (Linux 6.9+)."""
        return bool(self.flags2 & HAS_RESEND)


def parse(request: bytes) -> Offer:
    """Read the kernel's INIT request. Raise ValueError for any other message."""
    length, opcode, unique, *_ = wire.IN_HEADER.unpack_from(request)
    if opcode != wire.INIT or length != len(request):
        raise ValueError(f"the kernel's first request is {opcode}, not FUSE_INIT")
    body = request[wire.IN_HEADER.size :].ljust(_IN.size, b"\0")
    major, minor, _, flags, flags2 = _IN.unpack_from(body)
    if (major, minor) < (_MAJOR, _OLDEST_MINOR):
        raise ValueError(f"the kernel speaks FUSE {major}.{minor}; 7.31 (Linux 5.4) is needed")
    return Offer(unique, minor, flags, flags2 if flags & INIT_EXT else 0)


def answer(offer: Offer, wanted: int) -> bytes:
    """Return the answer to INIT with the `wanted` flags, OWN or CALLER, as far as offered."""
    body = _OUT.pack(
        _MAJOR,
        min(offer.minor, _NEWEST_MINOR),
        _MAX_READAHEAD,
        offer.flags & (wanted | INIT_EXT),
        _MAX_BACKGROUND,
        _MAX_BACKGROUND,
        wire.MAX_WRITE,
        1,
        _READ_PAGES,
        0,
        offer.flags2 & ALLOW_IDMAP,
    )
    return wire.data_reply(offer.unique, body)


def request_for_libfuse() -> bytes:
    """Return the INIT request that a server tells libfuse: it offers what was negotiated.

    The minor version is the oldest one, whose messages every libfuse since 3.10 and every kernel
    of this connection have in common.
    """
    body = _IN.pack(_MAJOR, _OLDEST_MINOR, _MAX_READAHEAD, CALLER, 0)
    length = wire.IN_HEADER.size + len(body)
    return wire.IN_HEADER.pack(length, wire.INIT, 1, 0, 0, 0, 0, 0) + body
