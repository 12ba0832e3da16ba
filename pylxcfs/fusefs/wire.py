"""The kernel's FUSE messages as bytes: the few that the express lane reads and writes itself.

Layouts are those of include/uapi/linux/fuse.h (protocol 7.31 to 7.45), little- or big-endian as
the machine. Nothing here knows what a node or a file means, and nothing does I/O.
"""

from __future__ import annotations

import struct
from typing import Final

# Requests (enum fuse_opcode).
LOOKUP: Final = 1
FORGET: Final = 2
GETATTR: Final = 3
SETATTR: Final = 4
READLINK: Final = 5
OPEN: Final = 14
READ: Final = 15
WRITE: Final = 16
RELEASE: Final = 18
FLUSH: Final = 25
INIT: Final = 26
ACCESS: Final = 34
INTERRUPT: Final = 36
DESTROY: Final = 38
POLL: Final = 40
BATCH_FORGET: Final = 42

#: struct fuse_in_header: len, opcode, unique, nodeid, uid, gid, pid, extensions and padding.
IN_HEADER: Final = struct.Struct("=IIQQIIII")
#: Of it opcode, unique, nodeid, uid and pid, with what follows it in OPEN (flags; their upper half
#: is FUSE's own), READ and RELEASE (fh).
IN_HEADER_AND_WORD: Final = struct.Struct("=4xIQQI4xI4xQ")
#: struct fuse_out_header: len, error (negative errno), unique.
OUT_HEADER: Final = struct.Struct("=IiQ")

#: struct fuse_getattr_in behind the header: flags, fh.
GETATTR_IN: Final = struct.Struct("=I4xQ")
GETATTR_FH: Final = 1
#: struct fuse_open_in: flags.
OPEN_IN: Final = struct.Struct("=I4x")
#: struct fuse_read_in: fh, offset, size, read_flags.
READ_IN: Final = struct.Struct("=QQII")
#: Of read_flags. A READ into the caller's buffer names its owner (fuse_send_read, fs/fuse/file.c);
#: one that fills a page of the cache, whatever flags its handle has, does not.
READ_LOCKOWNER: Final = 2
#: struct fuse_write_in: fh, offset, size; the data follows the whole of it.
WRITE_IN: Final = struct.Struct("=QQI20x")
#: struct fuse_poll_in: fh, poller (kh), flags.
POLL_IN: Final = struct.Struct("=QQI4x")
POLL_SCHEDULE_NOTIFY: Final = 1
#: struct fuse_release_in: fh.
RELEASE_IN: Final = struct.Struct("=Q")

#: out header and struct fuse_open_out: fh, open flags.
OPEN_REPLY: Final = struct.Struct("=IiQQI4x")
FOPEN_DIRECT_IO: Final = 1
FOPEN_KEEP_CACHE: Final = 2

# struct fuse_attr: ino size blocks atime mtime ctime atimensec mtimensec ctimensec mode nlink
# uid gid rdev blksize flags.
_ATTR = "QQQQQQIIIIIIIIII"
#: out header, struct fuse_attr_out.
ATTR_REPLY: Final = struct.Struct("=IiQ" + "QI4x" + _ATTR)
#: out header, struct fuse_entry_out: nodeid, generation, entry/attr valid, their nanoseconds.
ENTRY_REPLY: Final = struct.Struct("=IiQ" + "QQQQII" + _ATTR)

#: struct fuse_init_in: major, minor, max_readahead, flags, flags2.
INIT_IN: Final = struct.Struct("=IIIII")
#: out header, struct fuse_init_out up to flags2: major, minor, max_readahead, flags,
#: max_background, congestion_threshold, max_write, time_gran, max_pages, map_alignment, flags2.
INIT_REPLY: Final = struct.Struct("=IiQ" + "IIIIHHIIHHI")

#: Bit of flags2: the kernel can hand out requests again (Linux 6.9+).
HAS_RESEND: Final = 1 << (39 - 32)
#: Bits of flags that the reply must (or must not) have, whatever libfuse makes of them.
AUTO_INVAL_DATA: Final = 1 << 12
WRITEBACK_CACHE: Final = 1 << 16
CACHE_SYMLINKS: Final = 1 << 23

#: Set in `unique` of a request that comes again.
UNIQUE_RESEND: Final = 1 << 63

#: out header and struct fuse_write_out; out header and struct fuse_poll_out.
WRITE_REPLY: Final = struct.Struct("=IiQI4x")
POLL_REPLY: Final = WRITE_REPLY

#: A notification's header has its code as error and no `unique`; this one names a poller.
NOTIFY_POLL: Final = struct.Struct("=IiQQ")
#: This one makes the kernel forget a node's attributes (offset -1: its pages stay).
NOTIFY_INVAL_INODE: Final = struct.Struct("=IiQQqq")
NOTIFY_RESEND: Final = OUT_HEADER.pack(16, 7, 0)

#: Least size of a buffer to read requests into (FUSE_MIN_READ_BUFFER).
MIN_READ_BUFFER: Final = 8192

#: ioctl on /dev/fuse that joins it to another descriptor's connection (_IOR(229, 0, u32)).
DEV_IOC_CLONE: Final = 0x8004E500

_NS = 1_000_000_000


def forget_attributes(node: int) -> bytes:
    """The message that makes the kernel ask for a node's attributes again."""
    return NOTIFY_INVAL_INODE.pack(NOTIFY_INVAL_INODE.size, 2, 0, node, -1, 0)


def error_reply(unique: int, errno: int) -> bytes:
    """An answer that is only an errno (0: success without data)."""
    return OUT_HEADER.pack(16, -errno, unique)


def data_reply(unique: int, data: bytes) -> bytes:
    """An answer that is plain bytes: READ and READLINK."""
    return OUT_HEADER.pack(16 + len(data), 0, unique) + data


def open_reply(unique: int, handle: int, flags: int) -> bytes:
    """The answer to OPEN."""
    return OPEN_REPLY.pack(32, 0, unique, handle, flags)


def attr_reply(
    unique: int, ino: int, mode: int, nlink: int, size: int, mtime_ns: int, valid_ns: int
) -> bytes:
    """The answer to GETATTR; the kernel trusts it for `valid_ns`."""
    valid, valid_nsec = divmod(valid_ns, _NS)
    mtime, nsec = divmod(mtime_ns, _NS)
    return ATTR_REPLY.pack(
        120, 0, unique, valid, valid_nsec,
        ino, size, 0, mtime, mtime, mtime, nsec, nsec, nsec, mode, nlink, 0, 0, 0, 4096, 0,
    )  # fmt: skip


def entry_reply(
    unique: int,
    node: int,
    ino: int,
    mode: int,
    nlink: int,
    size: int,
    mtime_ns: int,
    valid_ns: int,
    entry_valid_ns: int,
) -> bytes:
    """The answer to LOOKUP; the name is trusted for `entry_valid_ns`."""
    valid, valid_nsec = divmod(valid_ns, _NS)
    entry, entry_nsec = divmod(entry_valid_ns, _NS)
    mtime, nsec = divmod(mtime_ns, _NS)
    return ENTRY_REPLY.pack(
        144, 0, unique, node, 0, entry, valid, entry_nsec, valid_nsec,
        ino, size, 0, mtime, mtime, mtime, nsec, nsec, nsec, mode, nlink, 0, 0, 0, 4096, 0,
    )  # fmt: skip
