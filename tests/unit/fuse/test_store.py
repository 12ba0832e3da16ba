"""What one server puts, the next one loads; and what a kill left half written is nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.fuse import memory, store
from pylxcfs.fuse.store import LONGEST, Store

Loaded = dict[int, tuple[int, bytes]]

keys = st.integers(1, (1 << 64) - 1)
stamps = st.integers(0, (1 << 64) - 1)


def loaded(fd: int) -> Loaded:
    found = list(Store(fd).load())
    assert len({key for key, _, _ in found}) == len(found)
    return {key: (stamp, text) for key, stamp, text in found}


@pytest.fixture
def fd() -> Iterator[int]:
    fd = memory.make("own", "0:42", can_resend=True)
    yield fd
    os.close(fd)


def test_there_is_nothing_at_first(fd: int) -> None:
    assert loaded(fd) == {}


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["put", "put", "drop", "next"]),
            st.integers(1, 5),
            stamps,
            st.binary(max_size=9000),
        ),
        max_size=40,
    )
)
def test_the_next_server_loads_what_was_put_and_not_dropped(
    steps: list[tuple[str, int, int, bytes]],
) -> None:
    fd = memory.make("own", "0:42", can_resend=True)
    servers = Store(fd)
    expected: Loaded = {}
    for what, key, stamp, text in steps:
        if what == "put":
            servers.put(key, stamp, text)
            expected[key] = (stamp, text)
        elif what == "drop":
            servers.drop(key)
            expected.pop(key, None)
        else:
            servers = Store(fd)
            assert {k: (s, t) for k, s, t in servers.load()} == expected
    assert loaded(fd) == expected
    os.close(fd)


@given(keys, stamps)
def test_keys_and_stamps_of_64_bits_come_back(key: int, stamp: int) -> None:
    fd = memory.make("own", "0:42", can_resend=True)
    Store(fd).put(key, stamp, b"text")
    assert loaded(fd) == {key: (stamp, b"text")}
    os.close(fd)


OLD = (7, 1 << 60 | 1, b"the old text of one container")
NEW = (1 << 63 | 9, 1 << 61 | 2, b"a new text of another container, longer")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (OLD, (OLD[0], *NEW[1:])),
        (OLD, (OLD[0], OLD[1] + (1 << 32), OLD[2])),
        (OLD, NEW),
        (OLD, (NEW[0], *OLD[1:])),
        (NEW, OLD),
    ],
    ids=["another text", "another stamp", "another key", "only the key", "a shorter text"],
)
def test_half_of_a_write_is_the_old_text_the_new_one_or_nothing(
    fd: int, old: tuple[int, int, bytes], new: tuple[int, int, bytes]
) -> None:
    """At every byte at which a kill may have ended the write."""
    server = Store(fd)
    server.put(*old)
    before = os.pread(fd, 4096, store._FIRST)
    if new[0] != old[0]:
        server.drop(old[0])  # so the slot is free
    free = os.pread(fd, 4096, store._FIRST)
    server.put(*new)
    after = os.pread(fd, 4096, store._FIRST)
    if new[0] == old[0]:
        assert free == before
    whole = {old[0]: old[1:]}, {new[0]: new[1:]}
    for cut in range(24 + len(new[2]) + 1):
        os.pwrite(fd, after[:cut] + free[cut:], store._FIRST)
        assert loaded(fd) in ({}, *whole), cut


@given(st.binary(min_size=1, max_size=100), st.data())
def test_any_changed_byte_is_found(text: bytes, data: st.DataObject) -> None:
    fd = memory.make("own", "0:42", can_resend=True)
    Store(fd).put(5, 1 << 40, text)
    place = data.draw(st.integers(0, 23 + len(text)))
    (byte,) = os.pread(fd, 1, store._FIRST + place)
    os.pwrite(fd, bytes([byte ^ data.draw(st.integers(1, 255))]), store._FIRST + place)
    assert loaded(fd) == {}
    os.close(fd)


def test_slots_are_reused(fd: int) -> None:
    server = Store(fd)
    for key in range(1, 200):
        server.put(key, 0, b"text")
        server.drop(key)
    server.put(200, 0, b"text")
    assert os.fstat(fd).st_size <= store._FIRST + 4096


def test_slots_of_a_dead_server_are_not_overwritten(fd: int) -> None:
    Store(fd).put(1, 1, b"one")
    second = Store(fd)
    assert list(second.load()) == [(1, 1, b"one")]
    second.put(2, 2, b"two")
    assert loaded(fd) == {1: (1, b"one"), 2: (2, b"two")}


def test_the_slot_of_a_torn_write_is_used_again(fd: int) -> None:
    server = Store(fd)
    server.put(1, 1, b"one")
    os.pwrite(fd, b"X", store._FIRST + 24)
    server = Store(fd)
    assert list(server.load()) == []
    server.put(2, 2, b"two")
    assert loaded(fd) == {2: (2, b"two")}
    assert os.fstat(fd).st_size <= store._FIRST + 4096


def test_a_text_that_is_too_long_is_left_out_with_the_one_before(fd: int) -> None:
    server = Store(fd)
    server.put(1, 1, b"x" * LONGEST)
    assert loaded(fd) == {1: (1, b"x" * LONGEST)}
    server.put(1, 2, b"x" * (LONGEST + 1))
    assert loaded(fd) == {}


def test_one_text_too_many_is_left_out(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_SLOTS", 3)
    server = Store(fd)
    for key in range(1, 6):
        server.put(key, 0, b"text")
    assert set(loaded(fd)) == {1, 2, 3}
    server.drop(2)
    server.put(5, 0, b"text")
    assert set(loaded(fd)) == {1, 3, 5}


def test_only_written_pages_take_memory(fd: int) -> None:
    server = Store(fd)
    for key in range(1, 11):
        server.put(key, 0, b"text")
    assert os.fstat(fd).st_blocks * 512 <= 12 * 4096


@given(st.dictionaries(st.integers(0, (1 << 21) - 1), st.integers(0, (1 << 63) - 1), max_size=10))
def test_epochs_outlive_servers(epochs: dict[int, int]) -> None:
    fd = memory.make("own", "0:42", can_resend=True)
    server = Store(fd)
    server.put(5, 6, b"text")
    for offset, epoch in epochs.items():
        server.set_epoch(offset, epoch)
    other = Store(fd)
    assert {offset: other.epoch(offset) for offset in epochs} == epochs
    assert loaded(fd) == {5: (6, b"text")}
    assert memory.read(fd).can_resend
    os.close(fd)


def test_an_epoch_that_was_never_set_is_0(fd: int) -> None:
    server = Store(fd)
    for offset in (0, 1, (1 << 21) - 1):
        assert server.epoch(offset) == 0
    server.put(5, 6, b"text")
    assert server.epoch((1 << 21) - 1) == 0


def test_the_keepers_page_is_left_alone(fd: int) -> None:
    before = os.pread(fd, memory.STORE, 0)
    server = Store(fd)
    server.put(1, 1, b"text")
    server.set_epoch(0, 5)
    server.drop(1)
    assert os.pread(fd, memory.STORE, 0)[: len(before)] == before
