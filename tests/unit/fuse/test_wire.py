"""Messages have the sizes that include/uapi/linux/fuse.h gives them, and say what they should."""

from __future__ import annotations

import stat
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.fuse import wire

u64 = st.integers(0, (1 << 64) - 1)
u32 = st.integers(0, (1 << 32) - 1)
_NS = 1_000_000_000


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        (wire.IN_HEADER, 40),
        (wire.REQUEST, 40),
        (wire.REQUEST_AND_WORD, 48),
        (wire.OUT_HEADER, 16),
        (wire.OPEN_IN, 8),
        (wire.WRITE_IN, 40),
        (wire.POLL_IN, 24),
        (wire.RELEASE_IN, 8),
        (wire.OPEN_REPLY, 16 + 16),
        (wire.ATTR_REPLY, 16 + 104),
        (wire.ENTRY_REPLY, 16 + 128),
        (wire.STATFS_REPLY, 16 + 80),
        (wire.WRITE_REPLY, 16 + 8),
        (wire.POLL_REPLY, 16 + 8),
        (wire.NOTIFY_POLL, 16 + 8),
        (wire.DIRENT, 24),
    ],
)
def test_sizes_are_the_kernels(layout: struct.Struct, size: int) -> None:
    assert layout.size == size


@given(u32, u64, u64, u32, u64)
def test_the_parts_of_a_header_are_where_the_whole_has_them(
    opcode: int, unique: int, node: int, pid: int, word: int
) -> None:
    data = wire.IN_HEADER.pack(48, opcode, unique, node, 1, 2, pid, 3) + struct.pack("=Q", word)
    assert wire.REQUEST.unpack_from(data) == (opcode, unique, node, pid)
    assert wire.REQUEST_AND_WORD.unpack_from(data) == (opcode, unique, node, pid, word)


def test_a_read_says_who_owns_its_locks() -> None:
    """struct fuse_read_in: fh, offset, size, read_flags, lock_owner, flags, padding."""
    body = struct.pack("=QQIIQII", 1, 2, 3, wire.READ_LOCKOWNER, 5, 6, 0)
    assert len(body) == 40
    assert wire.READ_IN.unpack_from(body) == (1, 2, 3, wire.READ_LOCKOWNER)


@given(u64, st.integers(0, 4095))
def test_an_error_is_negative(unique: int, number: int) -> None:
    assert struct.unpack("=IiQ", wire.error_reply(unique, number)) == (16, -number, unique)


@given(u64, st.binary(max_size=9000))
def test_data_follows_its_header(unique: int, data: bytes) -> None:
    reply = wire.data_reply(unique, data)
    assert struct.unpack_from("=IiQ", reply) == (len(reply), 0, unique)
    assert reply[16:] == data


@given(u64, u64, st.integers(0, 1 << 62), st.integers(0, 1 << 62))
def test_attributes_say_how_long_they_hold(unique: int, size: int, mtime: int, valid: int) -> None:
    reply = wire.attr_reply(unique, 77, 0o100444, 1, size, mtime, valid)
    # fuse_attr_out: attr_valid, attr_valid_nsec, dummy, then fuse_attr.
    fields = struct.unpack("=IiQ QII QQQQQQIIIIIIIIII", reply)
    assert fields[:3] == (len(reply), 0, unique)
    assert fields[3] * _NS + fields[4] == valid
    assert fields[4] < _NS
    ino, found, _, _, seconds, _, _, nanoseconds, _, mode, nlink, uid, gid = fields[6:19]
    assert (ino, found, mode, nlink, uid, gid) == (77, size, 0o100444, 1, 0, 0)
    assert seconds * _NS + nanoseconds == mtime
    assert fields[20] == wire.BLOCK_SIZE


@given(u64, u64, st.integers(0, (1 << 32) - 1))
def test_an_entry_names_its_node_and_generation(unique: int, node: int, generation: int) -> None:
    reply = wire.entry_reply(
        unique, node, generation, 77, 0o100444, 1, 10, 3 * _NS + 7, 2 * _NS + 1, 60 * _NS + 2
    )
    # fuse_entry_out: nodeid, generation, entry_valid, attr_valid, and their nanoseconds.
    fields = struct.unpack("=IiQ QQQQII QQQQQQIIIIIIIIII", reply)
    assert fields[:9] == (144, 0, unique, node, generation, 60, 2, 2, 1)
    assert fields[9:11] == (77, 10)
    assert (fields[13], fields[16]) == (3, 7)


def test_statfs_has_no_blocks_and_names_of_255() -> None:
    fields = struct.unpack("=IiQ QQQQQIIII24x", wire.statfs_reply(5))
    assert fields == (96, 0, 5, 0, 0, 0, 0, 0, 4096, 255, 4096, 0)


@given(st.binary(min_size=1, max_size=255), u64, st.integers(1, 1 << 30))
def test_a_directory_entry_is_padded_to_eight_bytes(name: bytes, ino: int, offset: int) -> None:
    entry = wire.dirent(ino, offset, stat.S_IFDIR | 0o555, name)
    assert len(entry) % 8 == 0
    assert 24 + len(name) <= len(entry) < 24 + len(name) + 8
    assert wire.DIRENT.unpack_from(entry) == (ino, offset, len(name), 4)  # DT_DIR
    assert entry[24:].rstrip(b"\0") == name.rstrip(b"\0")


@pytest.mark.parametrize(
    ("mode", "kind"), [(stat.S_IFREG, 8), (stat.S_IFLNK | 0o777, 10), (stat.S_IFDIR, 4)]
)
def test_the_type_of_an_entry_is_that_of_readdir(mode: int, kind: int) -> None:
    assert wire.DIRENT.unpack_from(wire.dirent(1, 1, mode, b"x"))[3] == kind


def test_resend_is_a_notification_without_a_body() -> None:
    assert struct.unpack("=IiQ", wire.NOTIFY_RESEND) == (16, 7, 0)
