"""Run a BPF program of type BPF_PROG_TYPE_CGROUP_DEVICE, as the kernel shows it.

That is xlated_prog_insns of BPF_OBJ_GET_INFO_BY_FD. The program is asked about one access to one
device and returns whether that is allowed. Its input is struct bpf_cgroup_dev_ctx
(include/uapi/linux/bpf.h); an instruction has 8 bytes
(Documentation/bpf/standardization/instruction-set.rst). The programs of runc, crun, LXC and systemd
compare numbers; that of libvirt looks them up in a hash table. What else there is (other maps and
helpers, subprograms, atomic operations) is a FormatError.

Pure: what is in a map is asked of the caller. The verifier has examined the program, so it ends and
is in its bounds; both are checked again, as bytes may come from anywhere.
"""

from __future__ import annotations

import operator
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Final

from pylxcfs.errors import FormatError

#: Returns the value of a key in the hash table with this number; None if it has no such key. The
#: bytes begin with the key: only the kernel knows how long it is.
Lookup = Callable[[int, bytes], bytes | None]

#: Access to a device (BPF_DEVCG_ACC_*).
READ: Final = 2
WRITE: Final = 4
#: Kinds of devices (BPF_DEVCG_DEV_*).
BLOCK: Final = 1
CHAR: Final = 2

_INSN: Final = struct.Struct("=BBhi")
_CONTEXT: Final = struct.Struct("=III")
_MOST_STEPS: Final = 1 << 14
#: Steps as which a look-up counts, about as long as it takes.
_LOOKUP_STEPS: Final = 16
_STACK: Final = 512
#: Where the program's memory is, for it: numbers that no computation of a program yields. Each
#: look-up has a value of its own, _REGION bytes behind the one before.
_REGION: Final = 1 << 40
_CONTEXT_AT: Final = 1 << 40
_STACK_AT: Final = 2 << 40
_VALUE_AT: Final = 3 << 40
_MAP_AT: Final = 1 << 62
_SIZES: Final = {0x00: 4, 0x08: 2, 0x10: 1, 0x18: 8}

#: Classes of instructions: the low three bits.
_LD, _LDX, _ST, _STX, _ALU32, _JMP, _JMP32, _ALU64 = range(8)
_LD_IMM64: Final = 0x18
_JA, _CALL, _EXIT = 0x05, 0x85, 0x95
_NEG, _MOV, _ARSH = 0x80, 0xB0, 0xC0
_PSEUDO_MAP_FD: Final = 1
#: What the kernel's JIT puts behind a call that looks into a hash table: `if r0: r0 += n`, from the
#: element to its value (htab_map_gen_lookup, kernel/bpf/hashtab.c). Only that tells a look-up from
#: other calls: the helper is shown as its address, or as 0 without CAP_SYSLOG
#: (bpf_insn_prepare_dump, kernel/bpf/syscall.c). bpf_map_delete_elem also begins with a map and a
#: key.
_IF_FOUND: Final = bytes((0x15, 0, 1, 0, 0, 0, 0, 0))
_TO_VALUE: Final = b"\x07\0\0\0"

_ALU: Final[Mapping[int, Callable[[int, int], int]]] = {
    0x00: operator.add,
    0x10: operator.sub,
    0x20: operator.mul,
    0x30: lambda a, b: a // b if b else 0,
    0x40: operator.or_,
    0x50: operator.and_,
    0x60: operator.lshift,
    0x70: operator.rshift,
    0x90: lambda a, b: a % b if b else a,
    0xA0: operator.xor,
}
#: Conditions of jumps, of numbers without a sign; and with one.
_UNSIGNED: Final[Mapping[int, Callable[[int, int], bool]]] = {
    0x10: operator.eq,
    0x20: operator.gt,
    0x30: operator.ge,
    0x40: lambda a, b: bool(a & b),
    0x50: operator.ne,
    0xA0: operator.lt,
    0xB0: operator.le,
}
_SIGNED: Final[Mapping[int, Callable[[int, int], bool]]] = {
    0x60: operator.gt,
    0x70: operator.ge,
    0xC0: operator.lt,
    0xD0: operator.le,
}


def uses_maps(program: bytes) -> bool:
    """Return whether the program asks maps, which may change while it stays."""
    return any(
        program[at] == _LD_IMM64 and _registers_of(program[at + 1])[1]
        for at in range(0, len(program), 8)
    )


class Budget:
    """Steps that some runs may take together; each takes half a microsecond."""

    def __init__(self, steps: int) -> None:
        self.left = steps


def allows(
    program: bytes,
    access: int,
    kind: int,
    major: int,
    minor: int,
    lookup: Lookup,
    budget: Budget | None = None,
) -> bool:
    """Return whether the program allows an access. Raise FormatError, also beyond `budget`."""
    try:
        context = _CONTEXT.pack(access << 16 | kind, major, minor)
        return _Run(program, context, lookup).result(budget or Budget(_MOST_STEPS)) != 0
    except (LookupError, ValueError, OverflowError, struct.error) as error:
        raise FormatError(f"BPF program ({error!r})") from None


class _Run:
    """One run. What it raises means that the program is not understood."""

    def __init__(self, program: bytes, context: bytes, lookup: Lookup) -> None:
        self._program = program
        self._lookup = lookup
        self._lookups = 0
        self._memory = {
            _CONTEXT_AT: bytearray(context),
            _STACK_AT: bytearray(_STACK),
        }
        # r0 to r10, and the one that the kernel uses to hide constants (BPF_REG_AX).
        self._registers = [0] * 12
        self._registers[1] = _CONTEXT_AT
        self._registers[10] = _STACK_AT + _STACK

    def result(self, budget: Budget) -> int:
        """Return r0 at the exit."""
        registers, at = self._registers, 0
        for step in range(min(_MOST_STEPS, budget.left)):
            code, pair, offset, number = _INSN.unpack_from(self._program, at * 8)
            (target, source), kind = _registers_of(pair), code & 7
            at += 1
            if code == _EXIT:
                budget.left -= step + 1 + self._lookups * _LOOKUP_STEPS
                return registers[0] & 0xFFFFFFFF
            if code == _CALL:
                self._look_up(at, source)
            elif code == _LD_IMM64:
                self._load_number(at - 1, target, source)
                at += 1
            elif kind == _LDX and code & 0xE0 == 0x60:
                registers[target] = self._load(registers[source] + offset, code)
            elif kind in (_ST, _STX) and code & 0xE0 == 0x60:
                value = registers[source] if kind == _STX else number
                self._store(registers[target] + offset, code, value)
            elif kind in (_ALU32, _ALU64) and not (offset or code & 0xF0 == 0xD0):
                value = registers[source] if code & 8 else number
                registers[target] = _compute(code, registers[target], value)
            elif code == _JA:
                at += offset
            elif kind in (_JMP, _JMP32):
                value = registers[source] if code & 8 else number
                if _holds(code, registers[target], value):
                    at += offset
            else:
                raise ValueError(f"instruction {code:#x}")
        raise ValueError("no end")

    def _load_number(self, at: int, target: int, source: int) -> None:
        _, _, _, low = _INSN.unpack_from(self._program, at * 8)
        _, _, _, high = _INSN.unpack_from(self._program, at * 8 + 8)
        if source == _PSEUDO_MAP_FD:
            self._registers[target] = _MAP_AT + low  # the kernel shows the map's number there
        elif source:
            raise ValueError(f"constant of kind {source}")
        else:
            self._registers[target] = (low & 0xFFFFFFFF) | (high & 0xFFFFFFFF) << 32

    def _look_up(self, at: int, source: int) -> None:
        behind = self._program[at * 8 : at * 8 + 16]
        number = self._registers[1] - _MAP_AT
        is_lookup = behind[:8] == _IF_FOUND and behind[8:12] == _TO_VALUE
        if source or not (is_lookup and 0 <= number < 1 << 32):
            raise ValueError("a call that is not known")
        region, start = self._place(self._registers[2])
        value = self._lookup(number, bytes(region[start:]))
        self._registers[0] = 0
        if value is not None:
            place = _VALUE_AT + self._lookups * _REGION
            self._memory[place] = bytearray(value)
            self._registers[0] = place - int.from_bytes(behind[12:], sys.byteorder)
        self._lookups += 1

    def _place(self, address: int) -> tuple[bytearray, int]:
        base = address // _REGION * _REGION
        return self._memory[base], address - base

    def _load(self, address: int, code: int) -> int:
        region, start = self._place(address)
        size = _SIZES[code & 0x18]
        if start + size > len(region):
            raise ValueError("a load out of bounds")
        return int.from_bytes(region[start : start + size], sys.byteorder)

    def _store(self, address: int, code: int, value: int) -> None:
        region, start = self._place(address)
        size = _SIZES[code & 0x18]
        if region is not self._memory[_STACK_AT] or start + size > len(region):
            raise ValueError("a store out of bounds")
        region[start : start + size] = (value % (1 << 8 * size)).to_bytes(size, sys.byteorder)


def _registers_of(pair: int) -> tuple[int, int]:
    """Return the numbers of target and source: bit fields, in the order of the machine."""
    high, low = pair >> 4, pair & 15
    return (low, high) if sys.byteorder == "little" else (high, low)


def _compute(code: int, left: int, right: int) -> int:
    bits = 64 if code & 7 == _ALU64 else 32
    mask = (1 << bits) - 1
    operation = code & 0xF0
    left &= mask
    right &= mask
    if operation == _MOV:
        return right
    if operation == _NEG:
        return -left & mask
    if operation in (0x60, 0x70, _ARSH):
        right %= bits
    if operation == _ARSH:
        return _signed(left, bits) >> right & mask
    return _ALU[operation](left, right) & mask


def _holds(code: int, left: int, right: int) -> bool:
    bits = 64 if code & 7 == _JMP else 32
    mask = (1 << bits) - 1
    operation = code & 0xF0
    if operation in _SIGNED:
        return _SIGNED[operation](_signed(left & mask, bits), _signed(right & mask, bits))
    return _UNSIGNED[operation](left & mask, right & mask)


def _signed(number: int, bits: int) -> int:
    return number - (number >> bits - 1 << bits)
