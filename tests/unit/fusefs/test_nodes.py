"""Node ids and handles carry their meaning through 64 bits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.fusefs import nodes

FIRST = 0xF0000000
pidns = st.integers(0xEFFFFFF0, FIRST + 2_000_000)
owners = st.builds(nodes.Owner, pidns, st.just(0) | pidns)


@given(owners, st.integers(1, nodes.INDEX_LIMIT - 1))
def test_a_node_id_says_whose_and_which_file(owner: nodes.Owner, index: int) -> None:
    node = nodes.node(nodes.pair(owner), index)
    assert 0 < node < 1 << 64
    assert nodes.unpack(nodes.pair_of(node)) == owner
    assert nodes.index_of(node) == index


@given(
    owners,
    st.sampled_from([0, nodes.STRANGER, nodes.CACHED, nodes.COMPAT | nodes.STRANGER]),
    st.integers(0, 1 << 70),
)
def test_a_handle_says_whose_view_and_its_flags(
    owner: nodes.Owner, flags: int, serial: int
) -> None:
    handle = nodes.handle(nodes.pair(owner), flags, serial)
    assert 0 < handle < 1 << 64
    assert nodes.unpack(nodes.pair_of(handle)) == owner
    assert handle & (nodes.STRANGER | nodes.CACHED | nodes.COMPAT) == flags


@given(owners)
def test_names_below_by_pidns_round_trip(owner: nodes.Owner) -> None:
    assert nodes.parse_name(nodes.name(owner)) == owner


@pytest.mark.parametrize(
    "name", [b"", b"self", b"0", b"1", b"4026532180.", b".1", b"04026532180", b"9" * 30, b"-5"]
)
def test_other_names_are_nobody(name: bytes) -> None:
    assert nodes.parse_name(name) is None


@pytest.mark.parametrize("number", [1, 0xEFFFFF00, FIRST + (1 << 22)])
def test_a_namespace_number_that_does_not_fit_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        nodes.pair((number, 0))


@given(st.integers(1, (1 << 64) - 1))
def test_inode_numbers_fit_programs_without_large_file_support(node: int) -> None:
    assert 0 < nodes.inode_number(node) < 1 << 31


def test_the_root_is_what_the_kernel_calls_it() -> None:
    assert nodes.node(0, nodes.ROOT) == 1
