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
        (wire.OPEN_OUT, 16),
        (wire.ATTR_OUT, 104 - 88),
        (wire.ENTRY_OUT, 128 - 88),
        (wire.ATTR, 88),
        (wire.WRITE_OUT, 8),
        (wire.POLL_OUT, 8),
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


@given(u64, st.integers(0, 1 << 62), st.integers(0, 1 << 62))
def test_attributes_say_how_long_they_hold(size: int, mtime: int, valid: int) -> None:
    data = wire.attr_out(77, wire.Attributes(0o100444, size, mtime, valid))
    # fuse_attr_out: attr_valid, attr_valid_nsec, dummy, then fuse_attr.
    fields = struct.unpack("=QII QQQQQQIIIIIIIIII", data)
    assert fields[0] * _NS + fields[1] == valid
    assert fields[1] < _NS
    ino, found, _, _, seconds, _, _, nanoseconds, _, mode, nlink, uid, gid = fields[3:16]
    assert (ino, found, mode, nlink, uid, gid) == (77, size, 0o100444, 1, 0, 0)
    assert seconds * _NS + nanoseconds == mtime
    assert fields[17] == wire.BLOCK_SIZE


@given(u64, st.integers(0, (1 << 32) - 1))
def test_an_entry_names_its_node_and_generation(node: int, generation: int) -> None:
    found = wire.Attributes(stat.S_IFDIR | 0o555, 10, 3 * _NS + 7, 2 * _NS + 1)
    data = wire.entry_out(node, generation, 77, found, 60 * _NS + 2)
    # fuse_entry_out: nodeid, generation, entry_valid, attr_valid, and their nanoseconds.
    fields = struct.unpack("=QQQQII QQQQQQIIIIIIIIII", data)
    assert fields[:6] == (node, generation, 60, 2, 2, 1)
    assert fields[6:8] == (77, 10)
    assert (fields[10], fields[13]) == (3, 7)
    assert fields[15:17] == (0o040555, 2)


def test_statfs_has_no_blocks_and_names_of_255() -> None:
    fields = struct.unpack("=QQQQQIIII24x", wire.STATFS_OUT)
    assert fields == (0, 0, 0, 0, 0, 4096, 255, 4096, 0)


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


def test_numbers_of_inodes_are_changed_and_nothing_else() -> None:
    big = wire.Attributes(0o40755, 0, 0, 0)

    def entry(node: int, ino: int) -> bytes:
        return wire.entry_out(node, 0, ino, big, 0)

    def listed(node: int, ino: int, name: bytes) -> bytes:
        return entry(node, ino) + wire.dirent(ino, 7, 0o40755, name)

    def short(node: int) -> int:
        return node % 1000

    node, other = (1 << 63) + 5, (1 << 63) + 6
    replies = {
        wire.LOOKUP: (entry(node, node), entry(node, short(node))),
        wire.MKDIR: (entry(node, node), entry(node, short(node))),
        wire.GETATTR: (wire.attr_out(node, big), wire.attr_out(short(node), big)),
        wire.SETATTR: (wire.attr_out(node, big), wire.attr_out(short(node), big)),
        wire.READDIRPLUS: (
            listed(node, node, b"a") + listed(other, other, b"long-name"),
            listed(node, short(node), b"a") + listed(other, short(other), b"long-name"),
        ),
    }
    assert set(replies) == set(wire.ATTRIBUTES_AT)
    for opcode, (before, after) in replies.items():
        reply, wanted = wire.data_reply(3, before), wire.data_reply(3, after)
        assert wire.renumbered(opcode, reply, short) == wanted
    assert wire.renumbered(wire.READDIRPLUS, wire.data_reply(3, b""), short) == wire.data_reply(
        3, b""
    )
