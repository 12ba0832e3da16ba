"""/proc/cpuinfo of several architectures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.errors import FormatError
from pylxcfs.formats import cpuinfo
from tests.unit.views.fakes import captured

X86 = (
    b"processor\t: 0\nsiblings\t: 2\ncpu cores\t: 1\npower management:\n\n"
    b"processor\t: 1\nsiblings\t: 2\n\n"
)
ARM = (
    b"processor\t: 0\nBogoMIPS\t: 38.40\n\nprocessor\t: 3\nBogoMIPS\t: 38.40\n\n"
    b"Hardware\t: BCM2835\nRevision\t: a020d3\n"
)
ARM_OLD = (
    b"Processor\t: ARMv7 rev 4\nprocessor\t: 0\n\nprocessor\t: 1\n\n"
    b"Features\t: swp\n\nSerial\t: 0\n"
)
PPC = (
    b"processor\t: 0\ncpu\t\t: POWER9\n\nprocessor\t: 4\ncpu\t\t: POWER9\n\n"
    b"timebase\t: 512000000\nplatform\t: PowerNV\n"
)
MIPS = b"system type\t\t: MIPS Malta\nprocessor\t\t: 0\ncpu model\t: 24Kc\n\nprocessor\t\t: 1\n\n"
LOONGARCH = b"system type\t\t: generic\n\nprocessor\t\t: 0\npackage\t\t: 0\n\nprocessor\t\t: 1\n\n"
S390X = b"""\
vendor_id       : IBM/S390
# processors    : 2
bogomips per cpu: 3033.00
max thread id   : 0
features\t: esan3 zarch
cache0          : level=1 type=Data scope=Private
processor 0: version = FF,  identification = 0133E8,  machine = 2964
processor 1: version = FF,  identification = 0133E8,  machine = 2964

cpu number      : 0
physical id     : 0
siblings        : 2

cpu number      : 1
physical id     : 0
siblings        : 2
"""
S390X_OLD = S390X.partition(b"\n\n")[0] + b"\n"

CASES = [
    ("x86", X86, (0, 1)),
    ("arm", ARM, (0, 3)),
    ("arm of old", ARM_OLD, (0, 1)),
    ("powerpc", PPC, (0, 4)),
    ("mips", MIPS, (0, 1)),
    ("loongarch", LOONGARCH, (0, 1)),
    ("s390x", S390X, (0, 1)),
    ("s390x of old", S390X_OLD, (0, 1)),
]
IDS = [case[0] for case in CASES]
TEXTS = [case[1] for case in CASES]


@pytest.mark.parametrize(("text", "numbers"), [case[1:] for case in CASES], ids=IDS)
def test_parse_and_render(text, numbers):
    info = cpuinfo.parse(text)
    assert info.numbers() == numbers
    assert info.render() == text
    assert info.only({n: n for n in numbers}, info.blocks).render() == text


#: The text of each with only its second CPU.
SECOND = [
    b"processor\t: 1\nsiblings\t: 2\n\n",
    b"processor\t: 3\nBogoMIPS\t: 38.40\n\nHardware\t: BCM2835\nRevision\t: a020d3\n",
    b"Processor\t: ARMv7 rev 4\nprocessor\t: 1\n\nFeatures\t: swp\n\nSerial\t: 0\n",
    b"processor\t: 4\ncpu\t\t: POWER9\n\ntimebase\t: 512000000\nplatform\t: PowerNV\n",
    b"system type\t\t: MIPS Malta\nprocessor\t\t: 1\n\n",
    b"system type\t\t: generic\n\nprocessor\t\t: 1\n\n",
    b"".join(line for line in S390X.splitlines(True)[:6])
    + b"processor 1: version = FF,  identification = 0133E8,  machine = 2964\n\n"
    + b"cpu number      : 1\nphysical id     : 0\nsiblings        : 2\n",
    b"".join(line for line in S390X.splitlines(True)[:6])
    + b"processor 1: version = FF,  identification = 0133E8,  machine = 2964\n",
]


@pytest.mark.parametrize(("text", "expected"), list(zip(TEXTS, SECOND, strict=True)), ids=IDS)
def test_one_cpu_alone(text, expected):
    info = cpuinfo.parse(text)
    second = info.numbers()[1]
    if info.lines:
        expected = expected.replace(b"# processors    : 2", b"# processors    : 1")
    assert info.only({second: second}, info.blocks).render() == expected


@pytest.mark.parametrize("text", TEXTS, ids=IDS)
def test_one_cpu_under_another_number(text):
    info = cpuinfo.parse(text)
    second = info.numbers()[1]
    alone = info.only({second: second}, info.blocks).render()
    seventh = cpuinfo.parse(info.only({second: 7}, info.blocks).render())
    assert seventh.numbers() == (7,)
    assert seventh.only({7: second}, seventh.blocks).render() == alone


FIELDS = [
    (b"siblings", b"2"),
    (b"cpu cores", b"1"),
    (b"processor", b"0"),
    (b"power management", b""),
    (b"cpu", None),
    (b"core", None),
    (b"absent", None),
]


@pytest.mark.parametrize(("name", "value"), FIELDS)
def test_fields_of_a_block(name, value):
    assert cpuinfo.field(cpuinfo.parse(X86).blocks[0], name) == value


def test_a_field_is_replaced_in_its_place():
    block = cpuinfo.parse(X86).blocks[0]
    assert cpuinfo.with_field(block, b"siblings", 12) == block.replace(b": 2\n", b": 12\n")
    assert cpuinfo.with_field(block, b"absent", 12) == block


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n\n",
        b"processor\t: 0",
        b"processor\t: x\n\n",
        b"processor\t: 0\n\nprocessor\t: 0\n\n",
        b"processor\t: 123456\n\n",
        b"processors: 1\n",
        b"cpu\t\t: TI UltraSparc\nncpus active\t: 1\n",
        b"# processors    : 1\n",
        b"# processors    : 1\nprocessor x: 1\n",
        b"# processors    : 1\nprocessor 0 no colon\n",
        b"# processors    : 2\nprocessor 0: 1\nprocessor 0: 1\n",
        b"# processors    : 2\nprocessor 0: 1\nprocessor 1: 1\n\ncpu number : 0\n",
        b"# processors    : 1\nprocessor 0: 1\n\nother\n\ncpu number : 0\n",
        b"# processors    : 1\nprocessor 0: 1\n\nother\n",
    ],
)
def test_nonsense_is_a_format_error(text):
    with pytest.raises(FormatError):
        cpuinfo.parse(text)


@pytest.mark.parametrize("host", captured(), ids=lambda path: path.name)
def test_captured_hosts_round_trip(host):
    text = (host / "proc/cpuinfo").read_bytes()
    info = cpuinfo.parse(text)
    assert info.numbers()
    assert info.render() == text


WORDS = st.sampled_from(
    [b"processor", b"\t: ", b"0", b"1", b"\n", b"\n\n", b"# processors", b"cpu number", b": ", b"x"]
)


@given(st.binary(max_size=100) | st.lists(WORDS, max_size=30).map(b"".join))
def test_any_bytes_parse_or_raise_our_error(text):
    try:
        info = cpuinfo.parse(text)
    except FormatError:
        return
    assert info.render() == text
    assert info.numbers()
