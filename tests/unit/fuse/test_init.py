"""FUSE_INIT: what is answered never goes beyond what the kernel offers."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.fuse import init, wire

words = st.integers(0, (1 << 32) - 1)

# Of include/uapi/linux/fuse.h, by number and not by name, on purpose.
ASYNC_READ = 1 << 0
WRITEBACK_CACHE = 1 << 16
NO_OPEN_SUPPORT = 1 << 17
EXPORT_SUPPORT = 1 << 4
CACHE_SYMLINKS = 1 << 23
NO_OPENDIR_SUPPORT = 1 << 24
EXPLICIT_INVAL_DATA = 1 << 25
OUT = struct.Struct("=IiQ" + "IIIIHHIIHHI28x")


def request(
    minor: int = 45, flags: int = 0xFFFFFFFF, flags2: int = 0xFFFFFFFF, major: int = 7
) -> bytes:
    body = struct.pack("=IIIII44x", major, minor, 131072, flags, flags2)
    return wire.IN_HEADER.pack(40 + len(body), wire.INIT, 2, 0, 0, 0, 0, 0) + body


class Answered:
    """The fields of an answer."""

    def __init__(self, answer: bytes) -> None:
        fields = OUT.unpack(answer)
        self.length, self.error, self.unique, self.major, self.minor, self.readahead = fields[:6]
        self.flags, self.background, _, self.max_write, _, self.max_pages, _, self.flags2 = fields[
            6:
        ]


def answered(message: bytes, wanted: int) -> Answered:
    return Answered(init.answer(init.parse(message), wanted))


@given(words, words, st.integers(31, 60), st.sampled_from([init.OWN, init.CALLER]))
def test_flags_are_never_beyond_the_offer(flags: int, flags2: int, minor: int, wanted: int) -> None:
    answer = answered(request(minor, flags, flags2), wanted)
    assert answer.flags & ~flags == 0
    assert answer.flags & ~(wanted | init.INIT_EXT) == 0
    assert answer.flags2 & ~flags2 == 0
    assert flags & init.INIT_EXT or answer.flags2 == 0
    assert answer.minor <= minor
    assert (answer.length, answer.error, answer.unique, answer.major) == (16 + 64, 0, 2, 7)


def test_the_own_mount_drops_changed_pages_and_reads_many_at_once() -> None:
    answer = answered(request(), init.OWN)
    assert answer.flags & init.AUTO_INVAL_DATA
    assert answer.flags & init.MAX_PAGES
    assert answer.max_pages == 32
    assert answer.flags2 & init.ALLOW_IDMAP


@pytest.mark.parametrize("wanted", [init.OWN, init.CALLER])
def test_nothing_that_would_share_an_answer_between_callers_is_negotiated(wanted: int) -> None:
    answer = answered(request(), wanted)
    for flag in (
        ASYNC_READ, WRITEBACK_CACHE, NO_OPEN_SUPPORT, EXPORT_SUPPORT, CACHE_SYMLINKS,
        NO_OPENDIR_SUPPORT, EXPLICIT_INVAL_DATA,
    ):  # fmt: skip
        assert not answer.flags & flag


def test_a_write_fits_the_buffer() -> None:
    answer = answered(request(), init.CALLER)
    assert answer.max_write + wire.IN_HEADER.size + wire.WRITE_IN.size <= wire.BUFFER


def test_whether_unanswered_requests_come_again_is_in_the_offer() -> None:
    assert init.parse(request()).can_resend
    assert not init.parse(request(flags2=0)).can_resend
    assert not init.parse(request(flags=0)).can_resend  # flags2 means nothing then


def test_a_short_request_of_an_older_kernel_has_no_second_flags() -> None:
    body = struct.pack("=IIII", 7, 31, 131072, 0x3FFFFFFF)
    message = wire.IN_HEADER.pack(40 + len(body), wire.INIT, 2, 0, 0, 0, 0, 0) + body
    assert init.parse(message) == (2, 31, 0x3FFFFFFF, 0)


@pytest.mark.parametrize("minor", [0, 30])
def test_a_protocol_that_is_too_old_is_refused(minor: int) -> None:
    with pytest.raises(ValueError, match=r"Linux 5\.4"):
        init.parse(request(minor))


def test_another_request_is_refused() -> None:
    header = wire.IN_HEADER.pack(40, wire.GETATTR, 2, 1, 0, 0, 0, 0)
    with pytest.raises(ValueError, match="not FUSE_INIT"):
        init.parse(header)


def test_libfuse_is_told_an_offer_of_what_was_negotiated() -> None:
    offer = init.parse(init.request_for_libfuse())
    assert (offer.minor, offer.flags, offer.can_resend) == (31, init.CALLER, False)
