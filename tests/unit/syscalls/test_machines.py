"""struct sysinfo of 64-bit and 32-bit programs."""

from __future__ import annotations

import struct

import pytest

from pylxcfs.syscalls.machines import MACHINES, SysInfo

GIB = 1 << 30
INFO = SysInfo(90, (65536, 32768, 0), 2 * GIB, GIB, 4096, 0, GIB, GIB, 12)
WORDS = [word for word, machine in MACHINES.items() if machine.word == 8]


def test_numbers_of_64_bits_are_bytes() -> None:
    data = MACHINES[0xC000003E].pack(INFO)
    assert len(data) == 112
    assert struct.unpack_from("=q3Q6QH", data) == (90, *INFO.loads, *INFO[2:8], 12)
    assert struct.unpack_from("=I", data, 104) == (1,)  # mem_unit


def test_small_amounts_are_bytes_for_32_bits_too() -> None:
    data = MACHINES[0x40000003].pack(INFO)
    assert len(data) == 64
    assert struct.unpack_from("=i3I6IH", data) == (90, *INFO.loads, *INFO[2:8], 12)


@pytest.mark.parametrize("total", [5 * GIB, 1 << 45])
def test_large_amounts_are_pages_for_32_bits(total: int) -> None:
    data = MACHINES[0x40000003].pack(INFO._replace(total=total))
    numbers = struct.unpack_from("=i3I6IHH2II", data)
    assert numbers[-1] == 4096
    assert numbers[4] == min(total // 4096, 2**32 - 1)
    assert numbers[5] == GIB // 4096


def test_more_threads_than_16_bits_do_not_wrap() -> None:
    data = MACHINES[0xC000003E].pack(INFO._replace(procs=100_000))
    assert struct.unpack_from("=H", data, 80) == (65535,)
