"""Node ids carry their meaning through 64 bits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.tree import nodes

FIRST = 0xF0000000
namespaces = st.integers(0xEFFFFF01, 0xEFFFFF00 + (1 << 21) - 1)
owners = st.builds(nodes.Owner, namespaces, st.just(0) | namespaces)


@given(owners, st.integers(0, nodes.INDEX_LIMIT - 1))
def test_a_node_id_says_owner_and_file(owner: nodes.Owner, index: int) -> None:
    node = nodes.node(nodes.pair(owner), index)
    assert 0 < node < 1 << 64
    assert nodes.unpack(nodes.pair_of(node)) == owner
    assert nodes.index_of(node) == index


@given(owners, owners)
def test_owners_of_one_pid_namespace_have_one_offset(
    owner: nodes.Owner, other: nodes.Owner
) -> None:
    offset = nodes.pidns_offset(nodes.pair(owner))
    assert 0 < offset < 1 << 21
    assert (offset == nodes.pidns_offset(nodes.pair(other))) == (owner.pidns == other.pidns)


@given(st.integers(0, nodes.INDEX_LIMIT - 1))
def test_what_all_share_has_no_owner(index: int) -> None:
    assert nodes.node(0, index) == index
    assert nodes.pair_of(index) == 0


@pytest.mark.parametrize("number", [-1, 0, 1, 0xEFFFFF00, 0xEFFFFF00 + (1 << 21), 1 << 32])
def test_a_namespace_number_that_does_not_fit_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        nodes.pair((number, 0))
    if number not in (0, 0xEFFFFF00):  # none, and a number that the kernel does not give
        with pytest.raises(ValueError, match="do not fit"):
            nodes.pair((FIRST, number))


@given(st.integers(1, (1 << 64) - 1))
def test_inode_numbers_fit_programs_without_large_file_support(node: int) -> None:
    assert 0 < nodes.inode_number(node) < 1 << 31


@given(owners, st.sets(st.integers(1, 4096), max_size=50))
def test_files_of_one_container_have_different_inode_numbers(
    owner: nodes.Owner, indexes: set[int]
) -> None:
    numbers = {nodes.inode_number(nodes.node(nodes.pair(owner), index)) for index in indexes}
    assert len(numbers) == len(indexes)


def test_numbers_that_kernels_hold_never_change() -> None:
    """A mount outlives an upgrade, and with it the node ids that it has."""
    assert (nodes.ROOT, nodes.PROC, nodes.SYS, nodes.DEVICES, nodes.SYSTEM, nodes.OWN) == (
        1, 2, 4, 5, 6, 7,
    )  # fmt: skip
    assert (nodes.CPU_LINK, nodes.NODE_LINK, nodes.MEMORY_LINK, nodes.PRESSURE_LINK) == (
        9, 10, 11, 12,
    )  # fmt: skip
    assert (nodes.VIEW_ROOT, nodes.VIEW_PROC, nodes.VIEW_PRESSURE, nodes.VIEW_SYS) == (
        32, 33, 34, 35,
    )  # fmt: skip
    assert (nodes.VIEW_DEVICES, nodes.VIEW_SYSTEM) == (36, 37)
    assert (nodes.LINKS, nodes.FILES, nodes.SYSFS) == (64, 128, 256)


def test_no_index_is_given_twice() -> None:
    """What is served must have a number of its own, whichever options are on together."""
    single = [
        nodes.ROOT, nodes.PROC, nodes.SYS, nodes.DEVICES, nodes.SYSTEM, nodes.OWN,
        nodes.CPU_LINK, nodes.NODE_LINK, nodes.MEMORY_LINK, nodes.PRESSURE_LINK, nodes.CGROUP_LINK,
        nodes.VIEW_ROOT, nodes.VIEW_PROC, nodes.VIEW_PRESSURE, nodes.VIEW_SYS, nodes.VIEW_DEVICES,
        nodes.VIEW_SYSTEM, nodes.CGROUP,
    ]  # fmt: skip
    views = range(nodes.DEVICE_LINKS - nodes.LINKS)
    given = [
        *single,
        *(index for pair in nodes.DEVICE_DIRECTORIES.values() for index in pair),
        *(nodes.CGROUP_ALIASES + i for i in range(len(nodes.HIERARCHIES))),
        *(nodes.LINKS + i for i in views),
        *(nodes.DEVICE_LINKS + i for i in range(len(nodes.DEVICES_OF_SYSFS))),
        *(nodes.FILES + i for i in views),
        *(
            nodes.FILES + nodes.DEVICE_LINKS - nodes.LINKS + i
            for i in range(len(nodes.DEVICES_OF_SYSFS))
        ),
    ]
    assert len(given) == len(set(given))
    assert max(given) < nodes.SYSFS
