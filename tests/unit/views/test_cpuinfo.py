"""proc/cpuinfo of a container."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.errors import FormatError
from pylxcfs.formats import cpuinfo as format_
from pylxcfs.views import cpuinfo, cpus
from pylxcfs.views.model import CpuLimit, CpuNumbering, Options
from tests.unit.formats.test_cpuinfo import ARM, PPC, S390X, S390X_OLD
from tests.unit.views.fakes import FakeContainer, FakeHost, captured


def machine(packages=2, cores=2, threads=2, mhz="2400.000"):
    """Return the text of an x86 machine; thread siblings are numbered last."""
    text = []
    number = 0
    for _ in range(threads):
        for package in range(packages):
            for core in range(cores):
                text.append(
                    f"processor\t: {number}\nvendor_id\t: GenuineIntel\ncpu MHz\t\t: {mhz}\n"
                    f"physical id\t: {package}\nsiblings\t: {cores * threads}\n"
                    f"core id\t\t: {core}\ncpu cores\t: {cores}\napicid\t\t: {number}\n"
                    f"flags\t\t: fpu vme\npower management:\n\n"
                )
                number += 1
    return "".join(text).encode()


#: Two packages of two cores of two threads: CPUs 0, 1, 4, 5 are the first package.
TEXT = machine()
ALL = tuple(range(8))
PACKED = Options(cpu_numbering=CpuNumbering.PACKED)


def render(cpuset=None, quota=None, options=None, text=TEXT, online=ALL):
    host = FakeHost({"proc/cpuinfo": text}, cpus=online)
    limit = CpuLimit(None if cpuset is None else frozenset(cpuset), quota)
    return cpuinfo.render(host, FakeContainer(cpu_limit_=limit), options or Options())


def told(text):
    """Return CPU -> (physical id, siblings, core id, cpu cores)."""
    names = (b"physical id", b"siblings", b"core id", b"cpu cores")
    return {
        number: tuple(int(format_.field(block, name)) for name in names)
        for number, block in format_.parse(text).blocks.items()
    }


def test_without_limits_it_is_the_hosts_file():
    assert render() == TEXT
    assert render(cpuset=ALL, quota=8.0) == TEXT
    assert render(options=PACKED) == TEXT


CASES = [
    # what, cpuset, quota, CPU -> (physical id, siblings, core id, cpu cores)
    ("one CPU", None, 1.0, {0: (0, 1, 0, 1)}),
    ("two cores", {0, 1}, None, {0: (0, 2, 0, 2), 1: (0, 2, 1, 2)}),
    ("two threads of a core", {0, 4}, None, {0: (0, 2, 0, 1), 4: (0, 2, 0, 1)}),
    ("one in each package", {1, 2}, None, {1: (0, 1, 1, 1), 2: (1, 1, 0, 1)}),
    (
        "a whole package, and a part",
        {0, 1, 4, 5, 6},
        None,
        {
            0: (0, 4, 0, 2),
            1: (0, 4, 1, 2),
            4: (0, 4, 0, 2),
            5: (0, 4, 1, 2),
            6: (1, 1, 0, 1),
        },
    ),
    ("a quota within a cpuset", {2, 3, 6}, 1.5, {2: (1, 2, 0, 2), 3: (1, 2, 1, 2)}),
]


@pytest.mark.parametrize(
    ("cpuset", "quota", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_visible_cpus_and_their_packages(cpuset, quota, expected):
    text = render(cpuset, quota)
    assert told(text) == expected
    packed = told(render(cpuset, quota, PACKED))
    assert list(packed) == list(range(len(expected)))
    assert list(packed.values()) == list(expected.values())


def test_nothing_else_of_a_block_changes():
    text = render({5})
    block = TEXT[TEXT.index(b"processor\t: 5") : TEXT.index(b"processor\t: 6")]
    block = block.replace(b"siblings\t: 4", b"siblings\t: 1").replace(b"cores\t: 2", b"cores\t: 1")
    assert text == block


def test_core_ids_that_repeat_in_a_whole_package_do_not_make_it_smaller():
    text = TEXT.replace(b"core id\t\t: 1", b"core id\t\t: 0")
    assert told(render({0, 1, 4, 5}, text=text))[0] == (0, 4, 0, 2)


@pytest.mark.parametrize(
    ("text", "online", "cpu", "kept", "gone"),
    [
        (ARM, (0, 3), 3, [b"processor\t: 3", b"Hardware\t: BCM2835"], b"processor\t: 0"),
        (PPC, (0, 4), 4, [b"processor\t: 4", b"timebase"], b"processor\t: 0"),
        (
            S390X,
            (0, 1),
            1,
            [
                b"# processors    : 1",
                b"processor 1:",
                b"cpu number      : 1",
                b"siblings        : 1",
            ],
            b"processor 0:",
        ),
        (S390X_OLD, (0, 1), 1, [b"# processors    : 1", b"processor 1:"], b"processor 0:"),
    ],
    ids=["arm", "powerpc", "s390x", "s390x of old"],
)
def test_other_architectures(text, online, cpu, kept, gone):
    seen = render({cpu}, text=text, online=online)
    assert format_.parse(seen).numbers() == (cpu,)
    assert all(line in seen for line in kept)
    assert gone not in seen
    assert format_.parse(render({cpu}, text=text, online=online, options=PACKED)).numbers() == (0,)


def test_a_new_reading_of_the_host_is_not_answered_from_memory():
    assert b"2400.000" in render({1})
    assert b"3700.123" in render({1}, text=machine(mhz="3700.123"))
    assert b"2400.000" in render({1})


def test_a_repeated_view_is_the_same_object():
    assert render({1, 2}) is render({1, 2})


def test_a_cpu_that_went_between_two_readings_is_left_out():
    assert list(told(render({3, 9}, online=(*ALL, 9)))) == [3]
    with pytest.raises(FormatError):
        render({9}, online=(*ALL, 9))


@pytest.mark.parametrize("directory", captured(), ids=lambda path: path.name)
def test_on_captured_hosts(directory):
    host = FakeHost(directory=directory)
    text = host.read("proc/cpuinfo")
    host.cpus = format_.parse(text).numbers()
    assert cpuinfo.render(host, FakeContainer(), Options()) == text
    container = FakeContainer(cpu_limit_=CpuLimit(None, 1.0))
    assert format_.parse(cpuinfo.render(host, container, Options())).numbers() == host.cpus[:1]


@given(
    st.none() | st.sets(st.integers(0, 9)),
    st.none() | st.floats(0, 10),
    st.sampled_from([Options(), PACKED]),
)
def test_blocks_are_the_visible_cpus_and_packages_add_up(cpuset, quota, options):
    seen = told(render(cpuset, quota, options))
    limit = CpuLimit(None if cpuset is None else frozenset(cpuset), quota)
    assert tuple(seen) == cpus.shown(cpus.within(ALL, limit, options), options)
    for package, siblings, _, cores in seen.values():
        mates = [other for other in seen.values() if other[0] == package]
        assert siblings == len(mates)
        assert cores == len({other[2] for other in mates})
