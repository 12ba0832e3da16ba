"""What a container may open, as its cgroup's rules say: compared with the kernel's own answers."""

from __future__ import annotations

import os
import struct

import pytest

from pylxcfs.errors import FormatError, Gone, SourceError
from pylxcfs.sources.cgroups import Hierarchies, Place
from pylxcfs.sources.devices import DeviceRules, _Maps
from pylxcfs.views.model import Device
from tests.conftest import require
from tests.kit import devices as kit
from tests.kit.cgroups import Cgroup
from tests.kit.devices import USUAL, Allowed

LOOP0, KMSG, NULL = Device(True, 7, 0), Device(False, 1, 11), Device(False, 1, 3)


@pytest.fixture
def cgroup(tmp_cgroup) -> Cgroup:
    return tmp_cgroup


@pytest.fixture
def unified(cgroup):
    """The cgroup's directory in the v2 hierarchy, which hybrid hosts have as well."""
    if "" not in cgroup.paths:
        require("cgroup", "no cgroup2 is mounted")
    return cgroup.paths[""]


def rules_of(cgroup: Cgroup) -> DeviceRules:
    hierarchies = Hierarchies.discover()
    # As /proc/PID/cgroup shows a process in it.
    text = cgroup.run(["cat", "/proc/self/cgroup"])
    paths = hierarchies.paths_in(text)
    return DeviceRules(hierarchies.named("devices", paths), hierarchies.in_v2(paths))


def check(cgroup: Cgroup, rules: DeviceRules, scratch) -> frozenset[Device]:
    """Compare with the kernel, for each device of this host and some that it has not."""
    every = [*kit.devices_of_host(), Device(False, 195, 0), Device(True, 259, 3), KMSG, LOOP0]
    every = list(dict.fromkeys(every))
    found = rules.may_open(every)
    truth = kit.ask_kernel(cgroup, every, scratch)
    assert (frozenset(every) if found is None else found) == truth
    return truth


def test_without_rules_everything_may_be_opened(cgroup, tmp_path):
    rules = rules_of(cgroup)
    assert rules.may_open([NULL, LOOP0]) is None
    check(cgroup, rules, tmp_path)


@pytest.mark.parametrize(
    "added",
    [
        [],
        [Allowed("b", 7, 0, "r")],
        [Allowed("b", 7, None)],
        [Allowed("c", 1, 11, "w"), Allowed("c", 195, 0, "rw")],
        [Allowed("c", None, None, "r")],
        [Allowed("b", 7, 0, "m")],
    ],
    ids=["usual", "to-read", "a-major", "to-write", "every-char", "mknod-alone"],
)
def test_the_answer_is_the_kernels(cgroup, tmp_path, added):
    kit.allow_only(cgroup, [*USUAL, *added])
    truth = check(cgroup, rules_of(cgroup), tmp_path)
    assert NULL in truth
    assert (LOOP0 in truth) == any(rule.kind == "b" and rule.access != "m" for rule in added)


def test_an_ancestors_rules_count(make_cgroup, tmp_path):
    outer = make_cgroup()
    kit.allow_only(outer, [*USUAL, Allowed("b", 7, 0)])
    inner = make_cgroup(parent=outer)
    if kit.has_v1(inner):
        assert LOOP0 in check(inner, rules_of(inner), tmp_path)
        kit.deny(outer, Allowed("b", 7, 0))
        assert LOOP0 not in check(inner, rules_of(inner), tmp_path)
    else:
        kit.allow_only(inner, [*USUAL, Allowed("c", 1, 11)])
        truth = check(inner, rules_of(inner), tmp_path)
        assert not {LOOP0, KMSG} & truth


def test_changed_rules_count_at_once(cgroup, tmp_path):
    if not kit.has_v1(cgroup):
        pytest.skip("v1's files; programs are below")
    kit.allow_only(cgroup, USUAL)
    rules = rules_of(cgroup)
    for _ in range(3):
        assert LOOP0 not in check(cgroup, rules, tmp_path)
        kit.allow(cgroup, Allowed("b", 7, 0))
        assert LOOP0 in check(cgroup, rules, tmp_path)
        kit.deny(cgroup, Allowed("b", 7, 0))
    kit.allow(cgroup, Allowed("a", None, None))
    assert rules.may_open([LOOP0]) is None


def test_programs_are_added_and_replaced(cgroup, unified, tmp_path):
    """As systemd and `docker update` do; on a hybrid host beside v1's rules."""
    rules = rules_of(cgroup)
    first = kit.attach_program(unified, kit.comparing([*USUAL, Allowed("b", 7, 0)]))
    try:
        assert LOOP0 in check(cgroup, rules, tmp_path)
        second = kit.attach_program(unified, kit.comparing(USUAL))
        assert LOOP0 not in check(cgroup, rules, tmp_path)
        kit.detach_program(unified, second)
        os.close(second)
        assert LOOP0 in check(cgroup, rules, tmp_path)
        kit.detach_program(unified, first)
        assert rules.may_open([LOOP0]) is None
    finally:
        os.close(first)


def test_a_program_that_asks_a_map_as_libvirts(cgroup, unified, tmp_path):
    """The map changes while the program stays."""
    rules = rules_of(cgroup)
    map_fd = kit.make_map()
    try:
        kit.put(map_fd, NULL, "rwm")
        kit.put(map_fd, KMSG, "m")
        os.close(kit.attach_program(unified, kit.looking_up(map_fd)))
        truth = check(cgroup, rules, tmp_path)
        assert NULL in truth
        assert KMSG not in truth
        kit.put(map_fd, KMSG, "rm")
        assert KMSG in check(cgroup, rules, tmp_path)
    finally:
        os.close(map_fd)


@pytest.fixture
def make_map():
    made = []

    def make(**options):
        made.append(kit.make_map(**options))
        return made[-1]

    yield make
    for descriptor in made:
        os.close(descriptor)


def test_the_first_value_stays_after_a_second_look_up(cgroup, unified, tmp_path, make_map):
    maps = make_map(key_size=4), make_map(key_size=4)
    for minor in range(64):
        for found, value in zip(maps, (minor % 2, 1), strict=True):
            kit.put_bytes(found, struct.pack("=I", minor), struct.pack("=I", value))
    os.close(kit.attach_program(unified, kit.deciding_by_both(*maps)))
    truth = check(cgroup, rules_of(cgroup), tmp_path)
    assert {device.minor % 2 for device in truth} == {1}


#: bpf_map_delete_elem; an array; a table with values for each CPU.
@pytest.mark.parametrize(("helper", "kind"), [(3, 1), (1, 2), (1, 5)])
def test_other_calls_and_maps_are_not_understood(cgroup, unified, tmp_path, make_map, helper, kind):
    """An empty map allows nothing. Everything is shown then, as without rules."""
    found = make_map(kind=kind, key_size=4)
    os.close(kit.attach_program(unified, kit.deciding(found, helper=helper)))
    assert not kit.ask_kernel(cgroup, [NULL, KMSG], tmp_path)
    with pytest.raises(FormatError):
        rules_of(cgroup).may_open([NULL])


@pytest.mark.parametrize(
    "options",
    [{"kind": 5, "value_size": 8}, {"kind": 9}, {"kind": 10}, {"value_size": 1 << 20}],
    ids=["percpu", "lru", "lru-percpu", "large"],
)
def test_other_maps_are_not_read(make_map, options):
    """The kernel writes the values of all CPUs into a buffer for one."""
    found = make_map(key_size=4, **options)
    with pytest.raises(SourceError, match="type"):
        _Maps().value(kit.map_number(found), bytes(4))


def test_v1_alone_counts_where_programs_cannot_be_read(cgroup, tmp_path):
    if not kit.has_v1(cgroup):
        pytest.skip("this host has no v1 devices controller")
    kit.allow_only(cgroup, USUAL)
    v1 = rules_of(cgroup)
    no_cgroup = Place(2, (str(tmp_path),), up_to_root=False)
    hierarchies = Hierarchies.discover()
    paths = hierarchies.paths_in(cgroup.run(["cat", "/proc/self/cgroup"]))
    both = DeviceRules(hierarchies.named("devices", paths), no_cgroup)
    assert both.may_open([NULL, LOOP0]) == v1.may_open([NULL, LOOP0]) == {NULL}
    with pytest.raises(SourceError):
        DeviceRules(None, no_cgroup).may_open([NULL])


def test_v1_alone_counts_where_programs_are_not_understood(cgroup, unified, make_map):
    if not kit.has_v1(cgroup):
        pytest.skip("this host has no v1 devices controller")
    kit.allow_only(cgroup, USUAL)
    os.close(kit.attach_program(unified, kit.deciding(make_map(key_size=4), helper=3)))
    rules = rules_of(cgroup)
    for _ in range(2):
        assert rules.may_open([NULL, LOOP0]) == {NULL}
        assert list(rules.origins()) == ["devices.list"]


def test_a_map_that_is_gone_is_not_an_empty_one(make_map):
    """The number of the last map that was made, plus one, is none's."""
    with pytest.raises(Gone):
        _Maps().value(kit.map_number(make_map(key_size=4)) + 1, bytes(4))


def test_a_container_says_what_it_may_open(make_container, look_up):
    made = make_container()
    container = look_up(made.pid)
    assert container.may_open([NULL, LOOP0]) is None
    kit.allow_only(made.cgroup, USUAL)
    assert container.may_open([NULL, LOOP0]) == {NULL}
