"""sys/devices/system/memory of a container."""

from __future__ import annotations

import pytest

from pylxcfs.errors import FormatError
from pylxcfs.units import GIB, MIB
from pylxcfs.views import numa, sysmemory, sysnode
from pylxcfs.views.model import Options
from tests.unit.views.fakes import FakeContainer, FakeHost, memory

#: Block 1 is offline, 3 does not exist, 10 is on node 1 and sorts before 2 as text; 2 is on both.
STATES = {0: b"online", 1: b"offline", 2: b"online", 4: b"online", 5: b"online", 10: b"online"}
NODES = {0: (0, 1, 2, 4), 1: (2, 5, 10)}
MEMINFO = b"""\
MemTotal:         600000 kB
MemFree:          400000 kB
MemAvailable:     500000 kB
"""


def host(states=STATES, nodes=NODES):
    files = {
        "proc/meminfo": MEMINFO,
        sysmemory.TREE + "block_size_bytes": b"8000000\n",
        sysmemory.TREE + "auto_online_blocks": b"online\n",
    }
    for number, state in states.items():
        files[f"{sysmemory.TREE}memory{number}/state"] = state + b"\n"
    for node, blocks in nodes.items():
        files[f"{numa.TREE}node{node}/memory_failure/total"] = b"0\n"
        files.update({f"{numa.TREE}node{node}/memory{block}/state": b"" for block in blocks})
    if nodes:
        files[numa.TREE + "online"] = files[numa.TREE + "has_memory"] = b"0-1\n"
    return FakeHost(files)


def container(limit, mems=None):
    return FakeContainer(
        memory_=memory(limit=limit), mems_=None if mems is None else frozenset(mems)
    )


def seen(machine, who, directory=sysmemory.DIRECTORY, view=sysmemory):
    """Return the listed blocks, and whether all other names are listed."""
    names = machine.list(directory)
    shown = [n for n in names if not view.hidden(f"{directory}/{n}", machine, who, Options())]
    assert {n for n in names if sysmemory.block(n) is None} <= set(shown)
    return {number for name in shown if (number := sysmemory.block(name)) is not None}


@pytest.mark.parametrize(
    ("limit", "blocks"),
    [
        (0, {0}),
        (4096, {0}),
        (128 * MIB, {0}),
        (128 * MIB + 4096, {0, 2}),
        (300 * MIB, {0, 2, 4}),
        (512 * MIB, {0, 2, 4, 5}),
        (585 * MIB, {0, 2, 4, 5, 10}),
    ],
)
def test_the_lowest_online_blocks_that_hold_the_limit_are_visible(limit, blocks):
    assert seen(host(), container(limit)) == blocks


@pytest.mark.parametrize("limit", [None, 600_000 * 1024, 4 * GIB])
def test_without_a_limit_every_block_is_the_hosts(limit):
    assert seen(host(), container(limit)) == set(STATES)


def test_without_a_memory_controller_every_block_is_the_hosts():
    assert seen(host(), FakeContainer()) == set(STATES)


@pytest.mark.parametrize(
    ("limit", "mems", "blocks"),
    [
        (200 * MIB, {1}, {2, 5}),
        (300 * MIB, {1}, {2, 5, 10}),
        (512 * MIB, {1}, {2, 5, 10}),  # it has no more
        (200 * MIB, {0}, {0, 2}),
        (512 * MIB, {0, 1}, {0, 2, 4, 5}),
    ],
)
def test_blocks_are_on_nodes_that_the_container_sees(limit, mems, blocks):
    assert seen(host(), container(limit, mems)) == blocks


def test_a_kernel_without_numa():
    assert seen(host(nodes={}), container(256 * MIB)) == {0, 2}


def test_nodes_that_do_not_tell_of_their_blocks():
    assert seen(host(nodes={0: (), 1: ()}), container(256 * MIB, {1})) == {0, 2}


def test_links_of_nodes_are_hidden_with_their_blocks():
    who = container(200 * MIB)
    assert seen(host(), who, numa.TREE + "node0", sysnode) == {0, 2}
    assert seen(host(), who, numa.TREE + "node1", sysnode) == {2}
    free = container(None)
    assert seen(host(), free, numa.TREE + "node1", sysnode) == set(NODES[1])


def test_what_is_in_a_block_goes_with_it():
    machine, who = host(), container(128 * MIB)
    for number, expected in ((0, False), (10, True)):
        path = f"{sysmemory.TREE}memory{number}/state"
        assert sysmemory.hidden(path, machine, who, Options()) is expected
        assert sysmemory.render(path, machine, who, Options()) is None


def test_a_listing_works_the_blocks_out_once():
    machine = host(dict.fromkeys(range(1000), b"online"), {0: range(1000)})
    who = container(500 * MIB)
    assert len(seen(machine, who)) == 4
    states = [path for path in machine.reads if path.endswith("/state")]
    assert len(states) == 4
    assert machine.reads.count("proc/meminfo") == 1


def test_a_changed_limit_is_seen_a_second_later():
    machine, who = host(), container(128 * MIB)
    assert seen(machine, who) == {0}
    who.memory_ = memory(limit=256 * MIB)
    assert seen(machine, who) == {0}
    machine.now += 1_000_000_000
    assert seen(machine, who) == {0, 2}


@pytest.mark.parametrize("text", [b"", b"0\n", b"128M\n", b"-80\n"])
def test_a_block_size_that_is_none(text):
    machine = host()
    machine.files[sysmemory.TREE + "block_size_bytes"] = text
    with pytest.raises(FormatError):
        seen(machine, container(128 * MIB))


def test_a_host_of_which_no_block_is_online_is_shown_as_it_is():
    states = {0: b"offline", 1: b"going-offline"}
    assert seen(host(states, {}), container(128 * MIB)) == {0, 1}


@pytest.mark.parametrize("name", ["memory", "memory_failure", "memoryx", "memory1x", "node0", ""])
def test_other_names_are_no_blocks(name):
    assert sysmemory.block(name) is None
