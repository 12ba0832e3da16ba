"""Device rules for cgroups of tests, as runtimes make them; and the kernel's own answer.

v1: devices.allow and devices.deny. v2: a BPF program that this module assembles; as runc's, which
compares numbers, or as libvirt's, which looks them up in a map. What a process may open is asked of
the kernel with access(2), in the cgroup: that opens nothing.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import stat
import struct
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from pylxcfs.views.model import Device
from tests.kit.cgroups import Cgroup

_BPF = {"x86_64": 321, "aarch64": 280}.get(platform.machine(), 0)
_MAP_CREATE, _MAP_UPDATE, _PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _GET_INFO = 0, 2, 5, 8, 9, 15
_CGROUP_DEVICE_PROGRAM, _CGROUP_DEVICE_ATTACH, _ALLOW_MULTI = 15, 6, 2
_ACCESS = {"m": 1, "r": 2, "w": 4}
_libc = ctypes.CDLL(None, use_errno=True)


class Allowed(NamedTuple):
    """One rule; None is every number."""

    kind: str
    major: int | None
    minor: int | None
    access: str = "rwm"

    def __str__(self) -> str:
        numbers = ["*" if number is None else str(number) for number in (self.major, self.minor)]
        return f"{self.kind} {':'.join(numbers)} {self.access}"


#: What every container may open, as runc has it: null, zero, full, random, urandom, tty, and ptys.
USUAL = (
    *(Allowed("c", 1, minor) for minor in (3, 5, 7, 8, 9)),
    Allowed("c", 5, 0),
    Allowed("c", 136, None),
    Allowed("c", None, None, "m"),
    Allowed("b", None, None, "m"),
)


def has_v1(cgroup: Cgroup) -> bool:
    return "devices" in cgroup.paths


def allow_only(cgroup: Cgroup, rules: Iterable[Allowed]) -> None:
    """Set the rules of a cgroup; on v2 it must have none yet."""
    if has_v1(cgroup):
        directory = cgroup.paths["devices"]
        (directory / "devices.deny").write_text("a")
        for rule in rules:
            allow(cgroup, rule)
    else:
        attach_program(cgroup.paths[""], comparing(list(rules)))


def allow(cgroup: Cgroup, rule: Allowed) -> None:
    """Allow one thing more, on v1."""
    (cgroup.paths["devices"] / "devices.allow").write_text(str(rule))


def deny(cgroup: Cgroup, rule: Allowed) -> None:
    """Allow one thing less, on v1."""
    (cgroup.paths["devices"] / "devices.deny").write_text(str(rule))


def _insn(code: int, target: int = 0, source: int = 0, offset: int = 0, number: int = 0) -> bytes:
    return struct.pack("=BBhi", code, source << 4 | target, offset, number)


def comparing(rules: Sequence[Allowed]) -> bytes:
    """Return a program as runc's: a few comparisons for each rule."""
    program = _insn(0x61, 2, 1, 0)  # r2: access and kind; r4: major; r5: minor
    program += _insn(0xBC, 3, 2) + _insn(0x54, 2, number=0xFFFF) + _insn(0x74, 3, number=16)
    program += _insn(0x61, 4, 1, 4) + _insn(0x61, 5, 1, 8)
    for rule in rules:
        access = sum(_ACCESS[letter] for letter in rule.access)
        tests = [(2, 1 if rule.kind == "b" else 2), (4, rule.major), (5, rule.minor)]
        body = _insn(0xBC, 1, 3) + _insn(0x54, 1, number=~access)
        body += _insn(0x55, 1, 0, 2, 0) + _insn(0xB7, 0, number=1) + _insn(0x95)
        for register, number in reversed(tests):
            if number is not None:
                body = _insn(0x55, register, 0, len(body) // 8, number) + body
        program += body
    return program + _insn(0xB7, 0, number=0) + _insn(0x95)


_EXIT = _insn(0x95)


def deciding(map_fd: int, *, helper: int = 1) -> bytes:
    """Return a program that allows what a map says of the minor number: a value, 0 or not 0.

    Another helper than the look-up gets the same map and key; 0 is what allows then.
    """
    call = _insn(0x18, 1, 1, number=map_fd) + _insn(0)
    call += _insn(0xBF, 2, 10) + _insn(0x07, 2, number=-4) + _insn(0x85, number=helper)
    program = _insn(0x61, 3, 1, 8) + _insn(0x63, 10, 3, -4) + call
    if helper != 1:
        program += _insn(0xA4, 0, number=-1) + _insn(0x74, 0, number=31)
        return program + _EXIT
    program += _insn(0x15, 0, 0, 1, 0) + _insn(0x61, 0, 0, 0)
    return program + _insn(0x57, 0, number=1) + _EXIT


def deciding_by_both(first: int, second: int) -> bytes:
    """Return a program that reads a value of the first map after a look-up in the second."""
    program = _insn(0x61, 3, 1, 8) + _insn(0x63, 10, 3, -4)
    for map_fd, register in ((first, 7), (second, 8)):
        program += _insn(0x18, 1, 1, number=map_fd) + _insn(0) + _insn(0xBF, 2, 10)
        program += _insn(0x07, 2, number=-4) + _insn(0x85, number=1) + _insn(0x55, 0, 0, 1, 0)
        program += _EXIT + _insn(0xBF, register, 0)
    program += _insn(0x61, 0, 7, 0) + _insn(0x61, 1, 8, 0) + _insn(0x5F, 0, 1)
    return program + _insn(0x57, 0, number=1) + _EXIT


def looking_up(map_fd: int) -> bytes:
    """Return a program as libvirt's: the numbers are a key, and its value the kinds of access."""
    program = _insn(0xBF, 6, 1)
    program += _insn(0x61, 2, 6, 4) + _insn(0x67, 2, number=32) + _insn(0x61, 3, 6, 8)
    program += _insn(0x4F, 2, 3) + _insn(0x7B, 10, 2, -8)
    program += _insn(0x18, 1, 1, number=map_fd) + _insn(0)
    program += _insn(0xBF, 2, 10) + _insn(0x07, 2, number=-8) + _insn(0x85, number=1)
    program += _insn(0x15, 0, 0, 5, 0)
    program += _insn(0x61, 1, 0, 0) + _insn(0x61, 2, 6, 0) + _insn(0x77, 2, number=16)
    program += _insn(0x5F, 1, 2) + _insn(0x1D, 1, 2, 2)
    return program + _insn(0xB7, 0, number=0) + _insn(0x95) + _insn(0xB7, 0, number=1) + _insn(0x95)


def make_map(kind: int = 1, key_size: int = 8, value_size: int = 4) -> int:
    """Make a map, as libvirt's from major << 32 | minor to access; return its descriptor."""
    return _bpf(_MAP_CREATE, struct.pack("=IIIII", kind, key_size, value_size, 64, 0))


def put(map_fd: int, device: Device, access: str) -> None:
    """Allow a device in a map."""
    value = sum(_ACCESS[letter] for letter in access)
    put_bytes(
        map_fd,
        struct.pack("=Q", device.major << 32 | device.minor),
        struct.pack("=I", value),
    )


def put_bytes(map_fd: int, key: bytes, value: bytes) -> None:
    texts = [ctypes.create_string_buffer(text, len(text)) for text in (key, value)]
    places = [ctypes.addressof(text) for text in texts]
    _bpf(_MAP_UPDATE, struct.pack("=I4xQQQ", map_fd, *places, 0))


def map_number(map_fd: int) -> int:
    """Return the number by which other processes open a map."""
    info = ctypes.create_string_buffer(8)
    _bpf(_GET_INFO, struct.pack("=IIQ", map_fd, len(info), ctypes.addressof(info)))
    return int(struct.unpack("=II", info.raw)[1])


def attach_program(cgroup: Path, program: bytes) -> int:
    """Attach a program to a v2 cgroup; it goes with the cgroup. Return its descriptor."""
    code = ctypes.create_string_buffer(program, len(program))
    licence = ctypes.create_string_buffer(b"GPL")
    log = ctypes.create_string_buffer(1 << 16)
    try:
        loaded = _bpf(
            _PROG_LOAD,
            struct.pack(
                "=IIQQIIQ",
                *(_CGROUP_DEVICE_PROGRAM, len(program) // 8),
                *(ctypes.addressof(code), ctypes.addressof(licence)),
                *(1, len(log), ctypes.addressof(log)),
            ),
        )
    except OSError as error:
        error.add_note(log.value.decode())
        raise
    _attach(_PROG_ATTACH, cgroup, loaded, _ALLOW_MULTI)
    return loaded


def detach_program(cgroup: Path, program: int) -> None:
    """Take a program away from a v2 cgroup."""
    _attach(_PROG_DETACH, cgroup, program, 0)


def _attach(command: int, cgroup: Path, program: int, flags: int) -> None:
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _bpf(command, struct.pack("=IIII", directory, program, _CGROUP_DEVICE_ATTACH, flags))
    finally:
        os.close(directory)


def _bpf(command: int, attributes: bytes) -> int:
    if not _BPF:
        pytest.skip("the number of bpf(2) on this machine is not known here")
    place = ctypes.create_string_buffer(attributes, len(attributes))
    result = _libc.syscall(_BPF, command, place, len(attributes))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)


_ASK = """
import json, os, sys
nodes = json.loads(sys.stdin.read())
print(json.dumps([os.access(node, os.R_OK) or os.access(node, os.W_OK) for node in nodes]))
"""


def ask_kernel(cgroup: Cgroup, devices: Sequence[Device], scratch: Path) -> frozenset[Device]:
    """Return which devices a process in the cgroup may open, by access(2) of nodes of our own."""
    import subprocess

    nodes = []
    for device in devices:
        node = scratch / f"{'bc'[not device.is_block]}-{device.major}-{device.minor}"
        if not node.exists():
            kind = stat.S_IFBLK if device.is_block else stat.S_IFCHR
            os.mknod(node, kind | 0o666, os.makedev(device.major, device.minor))
        nodes.append(str(node))
    done = subprocess.run(
        cgroup.command([sys.executable, "-I", "-S", "-c", _ASK]),
        input=json.dumps(nodes),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    answers = json.loads(done.stdout)
    return frozenset(device for device, may in zip(devices, answers, strict=True) if may)


def devices_of_host() -> list[Device]:
    """Return all devices that have a number."""
    found = []
    for directory, is_block in (("/sys/dev/block", True), ("/sys/dev/char", False)):
        for name in os.listdir(directory):
            major, _, minor = name.partition(":")
            found.append(Device(is_block, int(major), int(minor)))
    return sorted(found)
