"""Callers to owners, and keys that cannot be guessed."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pylxcfs.tree import nodes
from pylxcfs.tree.callers import Callers
from tests.unit.tree.kit import (
    A_PID,
    B_PID,
    HOST,
    HOST_PID,
    A,
    B,
    FakeContainers,
    FakeKnown,
    World,
)

namespaces = st.integers(0xEFFFFF01, 0xEFFFFF00 + (1 << 21) - 1)
owners = st.builds(nodes.Owner, namespaces, st.just(0) | namespaces)
epochs = st.integers(0, (1 << 64) - 1)
secrets = st.binary(min_size=32, max_size=32)


def callers(secret: bytes = b"s" * 32) -> Callers:
    return Callers(FakeContainers(), secret)


@given(owners, epochs, secrets)
def test_a_key_says_owner_and_epoch(owner: nodes.Owner, epoch: int, secret: bytes) -> None:
    name = callers(secret).key(nodes.pair(owner), epoch)
    assert callers(secret).parse_key(name) == (nodes.pair(owner), epoch)
    assert len(name) <= 255
    assert b"/" not in name


@given(owners, epochs, st.data())
def test_a_key_with_any_changed_byte_is_refused(
    owner: nodes.Owner, epoch: int, data: st.DataObject
) -> None:
    name = bytearray(callers().key(nodes.pair(owner), epoch))
    place = data.draw(st.integers(0, len(name) - 1))
    name[place] ^= data.draw(st.integers(1, 255))
    assert callers().parse_key(bytes(name)) is None


@given(owners, epochs, st.data())
def test_a_part_of_a_key_or_more_than_it_is_refused(
    owner: nodes.Owner, epoch: int, data: st.DataObject
) -> None:
    name = callers().key(nodes.pair(owner), epoch)
    assert callers().parse_key(name[: data.draw(st.integers(0, len(name) - 1))]) is None
    assert callers().parse_key(name + data.draw(st.binary(min_size=1, max_size=3))) is None
    assert callers().parse_key(data.draw(st.binary(min_size=1, max_size=3)) + name) is None


@given(owners, epochs, secrets, secrets)
def test_a_key_of_another_mount_is_refused(
    owner: nodes.Owner, epoch: int, secret: bytes, other: bytes
) -> None:
    assume(secret != other)
    name = callers(secret).key(nodes.pair(owner), epoch)
    assert callers(other).parse_key(name) is None


@given(owners, epochs, owners, epochs)
def test_the_mac_of_one_container_makes_no_key_of_another(
    owner: nodes.Owner, epoch: int, other: nodes.Owner, later: int
) -> None:
    assume((owner, epoch) != (other, later))
    ours, theirs = (
        callers().key(nodes.pair(owner), epoch),
        callers().key(nodes.pair(other), later),
    )
    forged = theirs.rpartition(b"-")[0] + b"-" + ours.rpartition(b"-")[2]
    assert callers().parse_key(forged) is None


@pytest.mark.parametrize("name", [b"", b"host", b"self", b"0", b"4026532180", b"-", b"1-1-1"])
def test_other_names_are_no_keys(name: bytes) -> None:
    assert callers().parse_key(name) is None


@given(owners, epochs)
def test_a_generation_fits_the_kernels_and_is_the_same_in_each_server(
    owner: nodes.Owner, epoch: int
) -> None:
    generation = callers().generation(nodes.pair(owner), epoch)
    assert 0 <= generation < 1 << 32
    assert callers().generation(nodes.pair(owner), epoch) == generation


def test_the_next_container_of_a_number_has_another_generation() -> None:
    owner = nodes.pair((A, 0))
    assert len({callers().generation(owner, epoch) for epoch in range(1000)}) == 1000


def test_owners_of_one_pid_namespace_begin_and_end_together() -> None:
    assert callers().generation(nodes.pair((A, 0)), 5) == callers().generation(
        nodes.pair((A, B)), 5
    )


def test_a_caller_is_its_container(world: World) -> None:
    owner = world.callers.owner
    assert nodes.unpack(owner(A_PID)) == (A, 0)
    assert nodes.unpack(owner(B_PID)) == (B, 0)
    assert owner(HOST_PID) == world.callers.host == nodes.pair((HOST, 0))


@pytest.mark.parametrize("pid", [0, 999])
def test_a_caller_that_cannot_be_known_is_nobody(world: World, pid: int) -> None:
    world.containers.processes[0] = (A, 0)  # pid 0 is a process of another pid namespace
    assert world.callers.owner(pid) == 0
    assert world.callers.container(0, pid) is None


def test_a_namespace_whose_number_does_not_fit_is_nobody(world: World) -> None:
    world.containers.processes[50] = (5, 0)
    assert world.callers.owner(50) == 0


def test_a_host_process_has_the_view_of_its_own_cgroup(world: World) -> None:
    assert world.callers.container(world.callers.host, HOST_PID) is None
    limited = world.containers.host_cgroups[HOST_PID] = FakeKnown()
    assert world.callers.container(world.callers.host, HOST_PID) is limited


def test_an_owner_has_its_container_whoever_asks(world: World) -> None:
    owner = nodes.pair((A, 0))
    for pid in (A_PID, B_PID, HOST_PID, 0):
        assert world.callers.container(owner, pid) is world.containers.live[A, 0]
