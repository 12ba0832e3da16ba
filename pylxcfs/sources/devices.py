"""Which devices the processes of a cgroup may open, without opening them or entering the cgroup.

    v1      devices.list of the devices controller. The kernel keeps a list within its parent's
            (propagate_exception), so the cgroup's own is enough
    v2      the BPF programs in effect for the cgroup, its ancestors' included: each has to say yes.
            They are read back from the kernel (bpf(2)) and run here (formats/bpf.py)

On a hybrid host both count (devcgroup_check_permission, security/device_cgroup.c). Where bpf(2) is
not permitted, v1's rules alone do there: they are those that runtimes set.

A process in the cgroup could ask access(2) of device nodes instead. But it would be frozen and
throttled with the container, stand in its cgroup.procs, and keep a cgroup that ends from being
removed; and v2 allows no process in a cgroup that has controllers for its children.

Not seen: what v1 denies a cgroup that is otherwise allowed everything, as devices.list does not
list that. bpf(2) needs CAP_SYS_ADMIN, and on older kernels (6.1) CAP_NET_ADMIN as well.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import struct
import time
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from pylxcfs.errors import FormatError, Gone, SourceError
from pylxcfs.formats import bpf, deviceslist
from pylxcfs.sources.cgroups import Origin, Place
from pylxcfs.sources.kept import Descriptor, KeptFile
from pylxcfs.views.model import Device

#: The number of bpf(2) by machine; the rest have that of asm-generic/unistd.h.
_BPF: Final = {
    "x86_64": 321,
    "ppc64le": 361,
    "ppc64": 361,
    "s390x": 351,
    "i686": 357,
    "armv7l": 386,
}.get(os.uname().machine, 280)
#: Commands of bpf(2), flags and types (include/uapi/linux/bpf.h).
_MAP_LOOKUP_ELEM, _PROG_GET_FD_BY_ID, _MAP_GET_FD_BY_ID = 1, 13, 14
_OBJ_GET_INFO_BY_FD, _PROG_QUERY = 15, 16
_CGROUP_DEVICE: Final = 6
_HASH: Final = 1
_QUERY_EFFECTIVE: Final = 1
#: Layouts of union bpf_attr, as far as each command has them.
_QUERY: Final = struct.Struct("=IIIIQI4x")
_GET_BY_ID: Final = struct.Struct("=III")
_INFO: Final = struct.Struct("=IIQ")
_LOOKUP: Final = struct.Struct("=I4xQQQ")
#: The beginning of struct bpf_prog_info, of which xlated_prog_len and _insns are used, and of
#: struct bpf_map_info: type, id, key_size, value_size.
_PROGRAM_INFO: Final = struct.Struct("=II8sIIQQ")
_MAP_INFO: Final = struct.Struct("=IIII")
#: Programs in effect for one cgroup (BPF_CGROUP_MAX_PROGS), and bytes of one.
_MOST_PROGRAMS: Final = 64
_MOST_BYTES: Final = 1 << 16
#: Bytes of a value in a map; that of libvirt has 4.
_MOST_VALUE: Final = 4096
#: Steps that all runs for one question may take, some 0.3 s: without a bound, a user who may load
#: programs could make every question take for ever. The programs of runtimes take a tenth of that.
_MOST_STEPS: Final = 1 << 19
#: Seconds after which programs that failed are run again, where they use maps, which may change.
_FAILED_S: Final = 1.0

#: Whether it is a block device, and major and minor number; None: every number.
_Numbers = tuple[bool, int | None, int | None]

_libc: Final = ctypes.CDLL(None, use_errno=True)


class DeviceRules:
    """The rules of one cgroup, in the places that it has in v1 and in v2."""

    def __init__(self, v1: Place | None, v2: Place | None) -> None:
        self._list = KeptFile(v1.own, "devices.list") if v1 is not None else None
        self._v2 = v2
        self._answers = _Answers(None, None)

    def may_open(self, devices: Iterable[Device]) -> frozenset[Device] | None:
        """Return those of some devices that may be opened; None: all.

        Raise Gone, SourceError, FormatError.
        """
        text = self._list.read() if self._list is not None else None
        numbers = self._effective()
        answers = self._answers
        is_same = (text, numbers) == (answers.text, answers.numbers)
        if not is_same or time.monotonic() >= answers.until:
            answers = self._answers = _Answers(text, numbers)
        return answers.may_open(devices)

    def origins(self) -> dict[str, Origin]:
        """Return the rules that the last answer follows from, by file or system call.

        None were found if there are none: then that answer says nothing.
        """
        found: dict[str, Origin] = {}
        if self._list is not None and self._answers.text is not None:
            found["devices.list"] = Origin(self._list.path, 0)
        if self._v2 is not None and self._answers.has_programs:
            found["bpf(2)"] = Origin(self._v2.own, 0)
        return found

    def _effective(self) -> tuple[int, ...] | None:
        if self._v2 is None:
            return None
        try:
            return effective(self._v2.own)
        except SourceError:
            if self._list is None:
                raise
            return None


class _Answers:
    """What follows from the text of devices.list and the numbers of programs; None: not known.

    Where both have rules, both have to allow a device. So those of v1 alone count where a program
    cannot be read, is not understood or takes too long.
    """

    def __init__(self, text: bytes | None, numbers: tuple[int, ...] | None) -> None:
        self.text = text
        self.numbers = numbers
        self._rules = _by_device(deviceslist.parse(text)) if text is not None else None
        #: Whether the answer follows from programs, too.
        self.has_programs = numbers is not None
        self._programs: list[bytes] = []
        try:
            self._programs = [instructions(number) for number in numbers or ()]
        except Gone:
            raise
        except SourceError:
            if self._rules is None:
                raise
            self.has_programs = False
        #: Maps change while the programs stay.
        self._use_maps = any(map(bpf.uses_maps, self._programs))
        #: The monotonic time until which the answers are good.
        self.until = 0.0 if self._use_maps else math.inf
        self._maps = _Maps()
        self._known: dict[Device, bool] = {}
        self._budget = bpf.Budget(0)
        #: The programs are not understood or too long, or a map cannot be read.
        self._failed: FormatError | SourceError | None = None

    def may_open(self, devices: Iterable[Device]) -> frozenset[Device] | None:
        if self._rules is None and not self._programs:
            return None
        if self._failed is not None:
            raise self._failed.with_traceback(None)
        self._budget = bpf.Budget(_MOST_STEPS)
        try:
            return frozenset([device for device in devices if self._may_open(device)])
        except Gone:
            raise
        except (FormatError, SourceError) as error:
            if self._use_maps:
                self.until = time.monotonic() + _FAILED_S
            if self._rules is None:
                self._failed = error
                raise
            self._programs, self._known, self.has_programs = [], {}, False
            return self.may_open(devices)

    def _may_open(self, device: Device) -> bool:
        known = self._known.get(device)
        if known is None:
            known = self._known[device] = any(
                self._rule_allows(device, letter)
                and all(self._program_allows(program, device, access) for program in self._programs)
                for letter, access in (("r", bpf.READ), ("w", bpf.WRITE))
            )
        return known

    def _rule_allows(self, device: Device, letter: str) -> bool:
        is_block, major, minor = device
        return self._rules is None or any(
            letter in self._rules.get((is_block, *numbers), "")
            for numbers in ((major, minor), (major, None), (None, minor), (None, None))
        )

    def _program_allows(self, program: bytes, device: Device, access: int) -> bool:
        kind = bpf.BLOCK if device.is_block else bpf.CHAR
        numbers = device.major, device.minor
        return bpf.allows(program, access, kind, *numbers, self._maps.value, self._budget)


def _by_device(rules: Iterable[deviceslist.Rule] | None) -> dict[_Numbers, str] | None:
    """Return what is allowed by kind and numbers; one list may have tens of thousands of rules."""
    if rules is None:
        return None
    found: dict[_Numbers, str] = {}
    for rule in rules:
        numbers = rule.is_block, rule.major, rule.minor
        found[numbers] = found.get(numbers, "") + rule.access
    return found


def effective(directory: str) -> tuple[int, ...]:
    """Return the numbers of the programs in effect for a cgroup. Raise Gone, SourceError."""
    cgroup = Descriptor.open(directory)
    found = (ctypes.c_uint32 * _MOST_PROGRAMS)()
    attributes = bytearray(
        _QUERY.pack(
            cgroup.number,
            _CGROUP_DEVICE,
            _QUERY_EFFECTIVE,
            0,
            ctypes.addressof(found),
            _MOST_PROGRAMS,
        )
    )
    try:
        _bpf(_PROG_QUERY, attributes)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return ()  # a kernel without CONFIG_CGROUP_BPF
        raise _error(directory, error) from None
    return tuple(found[: _QUERY.unpack(attributes)[5]])


@lru_cache(maxsize=256)
def instructions(number: int) -> bytes:
    """Return a program by its number, which no other program gets soon. Raise SourceError."""
    what = f"BPF program {number}"
    try:
        program = Descriptor(_bpf(_PROG_GET_FD_BY_ID, bytearray(_GET_BY_ID.pack(number, 0, 0))))
        text = ctypes.create_string_buffer(_MOST_BYTES)
        info = bytearray(_PROGRAM_INFO.pack(0, 0, b"", 0, _MOST_BYTES, 0, ctypes.addressof(text)))
        _info(program, info)
    except OSError as error:
        raise _error(what, error) from None
    *_, length, _, place = _PROGRAM_INFO.unpack(info)
    if not (0 < length <= _MOST_BYTES and place):
        raise SourceError(f"{what}: the kernel does not show its {length} bytes of instructions")
    return text.raw[:length]


class _Maps:
    """Hash tables of programs, by their numbers; each is open as long as this object."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[Descriptor, int, int]] = {}

    def value(self, number: int, key: bytes) -> bytes | None:
        """Return the value of a key; None if the map has none. Raise SourceError."""
        what = f"BPF map {number}"
        try:
            descriptor, key_size, value_size = self._get(number)
        except OSError as error:
            raise _error(what, error) from None
        if len(key) < key_size:
            raise SourceError(f"{what}: a key has {key_size} bytes, not {len(key)}")
        wanted = ctypes.create_string_buffer(key, len(key))
        value = ctypes.create_string_buffer(value_size)
        places = ctypes.addressof(wanted), ctypes.addressof(value)
        try:
            _bpf(_MAP_LOOKUP_ELEM, bytearray(_LOOKUP.pack(descriptor.number, *places, 0)))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise _error(what, error) from None
        return value.raw

    def _get(self, number: int) -> tuple[Descriptor, int, int]:
        found = self._open.get(number)
        if found is None:
            attributes = bytearray(_GET_BY_ID.pack(number, 0, 0))
            descriptor = Descriptor(_bpf(_MAP_GET_FD_BY_ID, attributes))
            info = bytearray(_MAP_INFO.size)
            _info(descriptor, info)
            kind, _, key_size, value_size = _MAP_INFO.unpack(info)
            # Of a map with values for each CPU, the kernel writes more than value_size.
            if kind != _HASH or value_size > _MOST_VALUE:
                raise SourceError(
                    f"BPF map {number} has type {kind}, and values of {value_size} bytes"
                )
            found = self._open[number] = descriptor, key_size, value_size
        return found


def _info(descriptor: Descriptor, info: bytearray) -> None:
    place = ctypes.addressof((ctypes.c_char * len(info)).from_buffer(info))
    _bpf(_OBJ_GET_INFO_BY_FD, bytearray(_INFO.pack(descriptor.number, len(info), place)))


def _bpf(command: int, attributes: bytearray) -> int:
    """Call bpf(2), which writes into `attributes`. Raise OSError."""
    place = (ctypes.c_char * len(attributes)).from_buffer(attributes)
    result = _libc.syscall(_BPF, command, place, len(attributes))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)


def _error(what: str, error: OSError) -> SourceError:
    kind = Gone if error.errno in (errno.ENOENT, errno.ENODEV, errno.EBADF) else SourceError
    return kind(f"{what}: bpf: {error.strerror}")
