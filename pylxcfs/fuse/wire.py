"""The kernel's FUSE messages as bytes: those that are read and written without libfuse.

Layouts are those of include/uapi/linux/fuse.h (protocol 7.31 to 7.45) in the machine's byte
order. Pure; standard library only, as the keeper's rescue server uses it, too.
"""

from __future__ import annotations

import errno
import stat
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

# Requests (enum fuse_opcode).
LOOKUP: Final = 1
FORGET: Final = 2
GETATTR: Final = 3
SETATTR: Final = 4
READLINK: Final = 5
MKDIR: Final = 9
OPEN: Final = 14
READ: Final = 15
WRITE: Final = 16
STATFS: Final = 17
RELEASE: Final = 18
FLUSH: Final = 25
INIT: Final = 26
OPENDIR: Final = 27
READDIR: Final = 28
RELEASEDIR: Final = 29
ACCESS: Final = 34
INTERRUPT: Final = 36
POLL: Final = 40
BATCH_FORGET: Final = 42
READDIRPLUS: Final = 44
#: Not implemented by any server: the kernel sends GETATTR then.
STATX: Final = 52

#: Opcodes are below this, but for that of CUSE.
OPCODES: Final = 64
#: Names of opcodes, as the kernel has them.
NAMES: Final = {
    LOOKUP: "lookup",
    FORGET: "forget",
    GETATTR: "getattr",
    SETATTR: "setattr",
    READLINK: "readlink",
    MKDIR: "mkdir",
    11: "rmdir",
    OPEN: "open",
    READ: "read",
    WRITE: "write",
    STATFS: "statfs",
    RELEASE: "release",
    22: "getxattr",
    23: "listxattr",
    FLUSH: "flush",
    OPENDIR: "opendir",
    READDIR: "readdir",
    RELEASEDIR: "releasedir",
    ACCESS: "access",
    INTERRUPT: "interrupt",
    39: "ioctl",
    POLL: "poll",
    BATCH_FORGET: "batch_forget",
    READDIRPLUS: "readdirplus",
    46: "lseek",
    STATX: "statx",
}

#: Requests to which the kernel expects no answer.
UNANSWERED: Final = frozenset({FORGET, BATCH_FORGET, INTERRUPT})

#: struct fuse_in_header: len, opcode, unique, nodeid, uid, gid, pid, extensions and padding.
IN_HEADER: Final = struct.Struct("=IIQQIIII")
#: Of it opcode, unique, nodeid and pid.
REQUEST: Final = struct.Struct("=4xIQQ8xI4x")
#: The same with the first eight bytes of the body: the handle in READ and RELEASE.
REQUEST_AND_WORD: Final = struct.Struct("=4xIQQ8xI4xQ")
#: struct fuse_out_header: len, error (negative errno), unique.
OUT_HEADER: Final = struct.Struct("=IiQ")

#: struct fuse_getattr_in behind the header: flags, fh.
GETATTR_IN: Final = struct.Struct("=I12x")
#: Of its flags: asked for by read(2), which has an open file (fuse_cache_read_iter), and not by
#: open(2) or stat(2).
GETATTR_FH: Final = 1
#: struct fuse_open_in: flags.
OPEN_IN: Final = struct.Struct("=I4x")
#: struct fuse_read_in: fh, offset, size, read_flags.
READ_IN: Final = struct.Struct("=QQII")
#: Of read_flags. A READ into the buffer of a caller names the owner of its locks (fuse_send_read,
#: fs/fuse/file.c); a READ that fills a page of the page cache (fuse_do_readpage) does not.
READ_LOCKOWNER: Final = 2
#: struct fuse_write_in: fh, offset, size; the data follow the whole of it.
WRITE_IN: Final = struct.Struct("=QQI20x")
#: struct fuse_poll_in: fh, poller (kh), flags.
POLL_IN: Final = struct.Struct("=QQI4x")
POLL_SCHEDULE_NOTIFY: Final = 1
#: struct fuse_release_in: fh.
RELEASE_IN: Final = struct.Struct("=Q")

#: The words with which READ, READDIR, READDIRPLUS and WRITE begin: fh, offset.
HANDLE_AND_OFFSET: Final = struct.Struct("=QQ")

#: struct fuse_open_out: fh, open flags.
OPEN_OUT: Final = struct.Struct("=QI4x")
FOPEN_DIRECT_IO: Final = 1
#: struct fuse_write_out: size; struct fuse_poll_out: events.
WRITE_OUT: Final = struct.Struct("=I4x")
POLL_OUT: Final = WRITE_OUT
#: struct fuse_statfs_out like that of procfs: blocks, bfree, bavail, files, ffree are 0; then
#: bsize, namelen, frsize. Podman refuses to bind what has no statfs(2).
STATFS_OUT: Final = struct.pack("=40xIII28x", 4096, 255, 4096)
#: struct fuse_attr_out ahead of the attributes: for how long they are valid, with nanoseconds.
ATTR_OUT: Final = struct.Struct("=QI4x")
#: struct fuse_entry_out ahead of them: nodeid, generation, entry/attr valid, their nanoseconds.
ENTRY_OUT: Final = struct.Struct("=QQQQII")
#: struct fuse_attr: ino size blocks atime mtime ctime atimensec mtimensec ctimensec mode nlink
#: uid gid rdev blksize flags.
ATTR: Final = struct.Struct("=QQQQQQIIIIIIIIII")
#: struct fuse_dirent in front of the name: ino, off, namelen, type.
DIRENT: Final = struct.Struct("=QQII")

#: st_blksize: with it and a true st_size, glibc, Go, Python, Node and Rust take a whole text in one
#: read(2).
BLOCK_SIZE: Final = 65536

#: The number with which attributes and a directory entry begin.
INODE: Final = struct.Struct("=Q")
#: Where attributes are in answers, and in each entry of a listing.
ATTRIBUTES_AT: Final = {
    LOOKUP: ENTRY_OUT.size,
    MKDIR: ENTRY_OUT.size,
    GETATTR: ATTR_OUT.size,
    SETATTR: ATTR_OUT.size,
    READDIRPLUS: ENTRY_OUT.size,
}

#: A notification has its code in place of an error and no `unique`; this one names a poller.
NOTIFY_POLL: Final = struct.Struct("=IiQQ")
#: Makes the kernel hand out again all requests that were taken and not answered (Linux 6.9+,
#: commit 760eac73f9f6 ("fuse: Introduce a new notification type for resend pending requests")).
NOTIFY_RESEND: Final = OUT_HEADER.pack(16, 7, 0)

#: A buffer to read requests into: the kernel refuses less than FUSE_MIN_READ_BUFFER (8192) and
#: less than a write of MAX_WRITE bytes with its headers.
BUFFER: Final = 65536
MAX_WRITE: Final = BUFFER // 2

#: ioctl on /dev/fuse that joins it to the connection of another descriptor (_IOR(229, 0, u32)).
DEV_IOC_CLONE: Final = 0x8004E500

_NS: Final = 1_000_000_000


class Attributes(NamedTuple):
    """What stat(2) shows of a node beside its number."""

    mode: int
    size: int
    mtime_ns: int
    #: For how long the kernel may believe it.
    valid_ns: int

    @property
    def nlink(self) -> int:
        """Number of links: directories have two."""
        return 2 if stat.S_ISDIR(self.mode) else 1


def error_reply(unique: int, number: int) -> bytes:
    """Return an answer that is only an errno."""
    return OUT_HEADER.pack(OUT_HEADER.size, -number, unique)


def failure_reply(opcode: int, unique: int) -> bytes:
    """Return an answer to a request that no handler could answer: EIO.

    A LOOKUP is answered ENOMEM, with which the kernel keeps the name and what is mounted there.
    """
    return error_reply(unique, errno.ENOMEM if opcode == LOOKUP else errno.EIO)


def data_reply(unique: int, data: bytes) -> bytes:
    """Return an answer that succeeds."""
    return OUT_HEADER.pack(OUT_HEADER.size + len(data), 0, unique) + data


def attr_out(ino: int, found: Attributes) -> bytes:
    """Return what answers GETATTR."""
    return ATTR_OUT.pack(*divmod(found.valid_ns, _NS)) + _attr(ino, found)


def entry_out(
    node: int, generation: int, ino: int, found: Attributes, entry_valid_ns: int
) -> bytes:
    """Return what answers LOOKUP; the name is trusted for `entry_valid_ns` nanoseconds."""
    valid, valid_nsec = divmod(found.valid_ns, _NS)
    entry, entry_nsec = divmod(entry_valid_ns, _NS)
    head = ENTRY_OUT.pack(node, generation, entry, valid, entry_nsec, valid_nsec)
    return head + _attr(ino, found)


def _attr(ino: int, found: Attributes) -> bytes:
    mtime, nsec = divmod(found.mtime_ns, _NS)
    return ATTR.pack(
        ino, found.size, 0, mtime, mtime, mtime, nsec, nsec, nsec,
        found.mode, found.nlink, 0, 0, 0, BLOCK_SIZE, 0,
    )  # fmt: skip


def renumbered(opcode: int, reply: bytes, inode_number: Callable[[int], int]) -> bytes:
    """Return an answer with other numbers for st_ino: `inode_number` of the node ids it has."""
    changed = bytearray(reply)
    start, end = OUT_HEADER.size, len(reply)
    while start < end:
        where = [start + ATTRIBUTES_AT[opcode]]
        length = end - start
        if opcode == READDIRPLUS:
            entry = start + ENTRY_OUT.size + ATTR.size
            where.append(entry)
            _, _, name_length, _ = DIRENT.unpack_from(reply, entry)
            length = -(-(entry + DIRENT.size + name_length - start) // 8) * 8
        for place in where:
            (node,) = INODE.unpack_from(reply, place)
            INODE.pack_into(changed, place, inode_number(node))
        start += length
    return bytes(changed)


def dirent(ino: int, offset: int, mode: int, name: bytes) -> bytes:
    """Return one entry of a READDIR answer, padded to 8 bytes; `offset` is that of the next."""
    data = DIRENT.pack(ino, offset, len(name), mode >> 12) + name
    return data + bytes(-len(data) % 8)
