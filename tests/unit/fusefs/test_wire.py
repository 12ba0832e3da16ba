"""Messages have the sizes that include/uapi/linux/fuse.h gives them, and say what they should."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.fusefs import wire


def test_sizes_are_the_kernels() -> None:
    assert wire.IN_HEADER.size == 40
    assert wire.OUT_HEADER.size == 16
    assert wire.OPEN_REPLY.size == 16 + 16
    assert wire.ATTR_REPLY.size == 16 + 104
    assert wire.ENTRY_REPLY.size == 16 + 128


def test_an_error_is_negative() -> None:
    assert struct.unpack("=IiQ", wire.error_reply(9, 2)) == (16, -2, 9)


@given(st.binary(max_size=9000))
def test_data_follows_its_header(data: bytes) -> None:
    reply = wire.data_reply(5, data)
    assert struct.unpack_from("=IiQ", reply) == (len(reply), 0, 5)
    assert reply[16:] == data


def test_attributes_say_how_long_they_hold() -> None:
    reply = wire.attr_reply(5, 77, 0o100444, 1, 1234, 3_000_000_007, 100_000_000)
    fields = wire.ATTR_REPLY.unpack(reply)
    assert fields[:5] == (len(reply), 0, 5, 0, 100_000_000)
    ino, size, _, _, mtime, _, _, mtime_nsec, _, mode = fields[5:15]
    assert (ino, size, mtime, mtime_nsec, mode) == (77, 1234, 3, 7, 0o100444)


def test_an_entry_names_its_node() -> None:
    reply = wire.entry_reply(5, 1 << 60, 77, 0o100444, 1, 10, 0, 0, 1_000_000_000)
    fields = wire.ENTRY_REPLY.unpack(reply)
    assert len(reply) == fields[0] == 144
    assert fields[3] == 1 << 60
    assert fields[5] == 1


def test_resend_is_a_notification_without_a_body() -> None:
    assert struct.unpack("=IiQ", wire.NOTIFY_RESEND) == (16, 7, 0)
