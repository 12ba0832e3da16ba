"""Programs of BPF_PROG_TYPE_CGROUP_DEVICE. The kernel's own answers are in tests/cgroup."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.errors import FormatError
from pylxcfs.formats import bpf

EXIT = bytes((0x95, 0, 0, 0, 0, 0, 0, 0))
MOST = (1 << 64) - 1


def insn(code: int, target: int = 0, source: int = 0, offset: int = 0, number: int = 0) -> bytes:
    return struct.pack("=BBhi", code, source << 4 | target, offset, number)


def no_map(number: int, key: bytes) -> bytes | None:
    raise AssertionError("no map is asked")


def run(*program: bytes, major: int = 1, minor: int = 3, lookup: bpf.Lookup = no_map) -> bool:
    return bpf.allows(b"".join(program), bpf.READ, bpf.CHAR, major, minor, lookup)


def number(value: int, register: int = 1) -> bytes:
    low, high = struct.unpack("=ii", struct.pack("=Q", value & MOST))
    return insn(0x18, register, number=low) + insn(0, number=high)


def gives(value: int, *program: bytes) -> bool:
    """Return whether r0 is a value in the end."""
    same = [number(value, 3), insn(0x1D, 0, 3, 2), insn(0xB7, 0, number=0), EXIT]
    return run(*program, *same, insn(0xB7, 0, number=1), EXIT)


@pytest.mark.parametrize(("offset", "value"), [(0, bpf.READ << 16 | bpf.CHAR), (4, 226), (8, 128)])
def test_the_context_has_access_kind_and_numbers(offset: int, value: int) -> None:
    same = [insn(0x61, 2, 1, offset), insn(0xB7, 0, number=1), insn(0x15, 2, 0, 1, value)]
    program = [*same, insn(0xB7, 0, number=0), EXIT]
    assert run(*program, major=226, minor=128)
    assert not run(*program, major=1, minor=3) or offset == 0


NUMBERS = st.integers(0, MOST)


def signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value


@given(a=NUMBERS, b=NUMBERS, is_64=st.booleans())
def test_arithmetic_is_that_of_the_machine(a: int, b: int, is_64: bool) -> None:
    kind, bits = (7, 64) if is_64 else (4, 32)
    mask = (1 << bits) - 1
    x, y = a & mask, b & mask
    for code, wanted in {
        0x00: x + y, 0x10: x - y, 0x20: x * y, 0x30: x // y if y else 0, 0x40: x | y,
        0x50: x & y, 0x60: x << y % bits, 0x70: x >> y % bits, 0x80: -x,
        0x90: x % y if y else x, 0xA0: x ^ y, 0xB0: y, 0xC0: signed(x, bits) >> y % bits,
    }.items():  # fmt: skip
        program = [number(a, 0), number(b, 2), insn(code | 8 | kind, 0, 2)]
        assert gives(wanted & mask, *program), hex(code)


@given(a=NUMBERS, b=NUMBERS, is_64=st.booleans())
def test_jumps_compare_as_the_machine_does(a: int, b: int, is_64: bool) -> None:
    kind, bits = (5, 64) if is_64 else (6, 32)
    mask = (1 << bits) - 1
    x, y, p, q = a & mask, b & mask, signed(a, bits), signed(b, bits)
    for code, wanted in {
        0x10: x == y, 0x20: x > y, 0x30: x >= y, 0x40: bool(x & y), 0x50: x != y,
        0x60: p > q, 0x70: p >= q, 0xA0: x < y, 0xB0: x <= y, 0xC0: p < q, 0xD0: p <= q,
    }.items():  # fmt: skip
        body = [insn(0xB7, 0, number=1), insn(code | 8 | kind, 1, 2, 1), insn(0xB7, 0, number=0)]
        assert run(number(a), number(b, 2), *body, EXIT) == wanted, hex(code)


def test_constants_are_sign_extended() -> None:
    assert gives(MOST - 1, insn(0xB7, 0, number=-2))
    assert gives((1 << 32) - 2, insn(0xB4, 0, number=-2))


def looking_up(helper: int = 0, found: int = 77) -> bytes:
    """Return a look-up with the key at r10 - 8, as the kernel shows it."""
    call = insn(0x18, 1, 1, number=found) + insn(0) + insn(0xBF, 2, 10) + insn(0x07, 2, number=-8)
    return call + insn(0x85, number=helper) + insn(0x15, 0, 0, 1) + insn(0x07, 0, number=56)


@pytest.mark.parametrize("helper", [0, -12345], ids=["hidden", "shown"])
def test_a_map_is_asked_with_the_key_on_the_stack(helper: int) -> None:
    asked = []

    def lookup(found: int, key: bytes) -> bytes | None:
        asked.append((found, key[:8]))
        return struct.pack("=I", 6) if key[:4] == struct.pack("=I", 3) else None

    program = [
        *(insn(0x61, 2, 1, 8), insn(0x7B, 10, 2, -8), looking_up(helper)),
        *(insn(0x15, 0, 0, 1), insn(0x61, 0, 0, 0), EXIT),
    ]
    assert bpf.uses_maps(b"".join(program))
    assert run(*program, minor=3, lookup=lookup)
    assert not run(*program, minor=4, lookup=lookup)
    assert asked == [(77, struct.pack("=Q", 3)), (77, struct.pack("=Q", 4))]


def test_the_value_of_each_look_up_stays():
    """The kernel's are in different elements."""
    values = {77: b"\1\0\0\0", 78: b"\2\0\0\0"}
    program = [
        *(looking_up(found=77), insn(0xBF, 7, 0), looking_up(found=78), insn(0xBF, 8, 0)),
        *(insn(0x61, 1, 7, 0), insn(0x61, 0, 8, 0), insn(0x67, 1, number=8), insn(0x4F, 0, 1)),
    ]
    same = [insn(0x15, 0, 0, 2, 0x102), insn(0xB7, 0, number=0), EXIT, insn(0xB7, 0, number=1)]
    assert run(*program, *same, EXIT, lookup=lambda number, key: values[number])


@pytest.mark.parametrize("source", [0, 1, 2], ids=["helper", "subprogram", "kfunc"])
def test_a_call_with_a_map_and_a_key_need_not_be_a_look_up(source: int) -> None:
    """As bpf_map_delete_elem, which returns a number."""
    call = looking_up()[:-24] + insn(0x85, 0, source)
    behind = looking_up()[-16:] if source else insn(0x15, 0, 0, 1) + insn(0xB7, 0, number=56)
    with pytest.raises(FormatError):
        run(call, behind, EXIT)


@pytest.mark.parametrize(
    "program",
    [
        b"",
        insn(0xB7, 0, number=1),  # no end
        insn(0x05, offset=-1),  # never ends
        insn(0x85, number=14) + EXIT,  # bpf_get_current_pid_tgid
        insn(0x61, 0, 1, 12) + EXIT,  # behind the context
        insn(0x61, 0, 10, 0) + EXIT,  # above the stack
        insn(0x63, 1, 0, 0) + EXIT,  # the context cannot be written
        insn(0x61, 0, 3, 0) + EXIT,  # r3 is no pointer
        insn(0xDC, 0, number=16) + EXIT,  # byte order
        insn(0x0F, 15, 1) + EXIT,
    ],
)
def test_what_is_not_understood_is_an_error(program: bytes) -> None:
    with pytest.raises(FormatError):
        run(program)


@given(st.binary(max_size=160))
def test_any_bytes_are_run_or_refused(program: bytes) -> None:
    with contextlib.suppress(FormatError):
        run(program, lookup=lambda number, key: None)


def test_a_budget_is_for_all_runs():
    budget = bpf.Budget(5)
    program = insn(0xB7, 0, number=1) + EXIT

    def ask() -> bool:
        return bpf.allows(program, bpf.READ, bpf.CHAR, 1, 3, no_map, budget)

    assert ask()
    assert ask()
    assert budget.left == 1
    with pytest.raises(FormatError):
        ask()


def test_a_look_up_takes_more_of_the_budget():
    budget = bpf.Budget(100)
    program = looking_up() + EXIT
    assert not bpf.allows(program, bpf.READ, bpf.CHAR, 1, 3, lambda number, key: None, budget)
    assert budget.left == 100 - 6 - 16
