"""From a call to its answer, and to what is written into the caller's memory.

What cannot be answered as the kernel would is left to the kernel (PASS), so no program is worse
off: a bad pointer is EFAULT and a short mask EINVAL, as without pylxcfs. Memory is written through
/proc/TID/mem, which belongs to one address space for good, once the call has been found to wait
still: a pid that is reused meanwhile is harmless. That file writes to pages that are read-only,
too; where the kernel can be asked (PROCMAP_QUERY, Linux 6.11) a call with such a pointer passes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import struct
from typing import Final

from pylxcfs.errors import PylxcfsError
from pylxcfs.syscalls.machines import MACHINES, Machine
from pylxcfs.syscalls.notify import PASS, Answer, Call, Listener, open_memory
from pylxcfs.syscalls.values import Known, Values

#: _IOWR('f', 17, struct procmap_query) of 104 bytes, and its query_flags.
_PROCMAP_QUERY: Final = 0xC0686611
_VMA_WRITABLE: Final = 0x02
#: size, query_flags, query_addr, vma_start, vma_end; the rest stays 0.
_QUERY: Final = struct.Struct("=QQQQQ64x")
#: _IOR(NSIO, 0x6, int) of linux/nsfs.h (6.11): a pid of the namespace -> the caller's.
_NS_GET_PID_FROM_PIDNS: Final = 0x8004B706

_MASK_BUFFER: Final = 8192
#: No page is smaller, and areas begin and end with pages.
_PAGE: Final = 4096


class Answers:
    """Answers the calls of one listener, or of one connection of LXC."""

    def __init__(self, values: Values) -> None:
        self._values = values
        self._known: Known = {}
        self._mask_size = _mask_size()
        self._cpu_ids = _cpu_ids()

    def answer(self, listener: Listener, call: Call) -> None:
        """Answer one call that the listener has handed out."""
        answer = PASS
        with contextlib.suppress(PylxcfsError, OSError):
            answer = self.find(listener, call)
        listener.send(call.ident, answer)

    def find(self, listener: Listener, call: Call) -> Answer:
        """Return the answer, once the memory is written. Raise PylxcfsError, OSError."""
        machine = MACHINES.get(call.arch)
        if machine is None or call.tid <= 0:
            return PASS
        if call.number == machine.sysinfo:
            return self._sysinfo(listener, call, machine)
        if call.number == machine.affinity:
            return self._affinity(listener, call, machine)
        return PASS

    def _sysinfo(self, listener: Listener, call: Call, machine: Machine) -> Answer:
        container = self._values.container_of(call.tid, self._known)
        if container is None:
            return PASS
        data = machine.pack(self._values.info(container))
        return Answer() if _write(listener, call, machine, call.args[0], data) else PASS

    def _affinity(self, listener: Listener, call: Call, machine: Machine) -> Answer:
        container = self._values.container_of(call.tid, self._known)
        if container is None:
            return PASS
        pid, length = (argument & 0xFFFFFFFF for argument in call.args[:2])
        thread = call.tid if pid == 0 else _thread(call.tid, pid)
        if thread is None:
            return PASS
        if length % machine.word or length < machine.word:
            return PASS
        # The kernel's mask for the thread, which the program may have narrowed, and of that as many
        # CPUs as the container sees.
        cpus = sorted(os.sched_getaffinity(thread))[: self._values.visible(container)]
        size = min(length, self._mask_size)
        if size * 8 < self._cpu_ids:
            return PASS
        data = sum(1 << cpu for cpu in cpus).to_bytes(size, "little")
        return Answer(size) if _write(listener, call, machine, call.args[2], data) else PASS


def _write(listener: Listener, call: Call, machine: Machine, address: int, data: bytes) -> bool:
    """Write to the caller's memory; return whether all of it could be."""
    if machine.word == 4:
        address &= 0xFFFFFFFF
    memory = open_memory(call.tid)
    try:
        if not _is_writable(call.tid, address, len(data)) or not listener.is_valid(call.ident):
            return False
        return os.pwrite(memory, data, address) == len(data)
    finally:
        os.close(memory)


def _is_writable(tid: int, address: int, size: int) -> bool:
    """Return whether a program may write there, as far as the kernel can be asked."""
    if address >= 1 << 63:
        return False
    number = os.open(f"/proc/{tid}/maps", os.O_RDONLY | os.O_CLOEXEC)
    try:
        last = address + size - 1
        for place in (address,) if address // _PAGE == last // _PAGE else (address, last):
            fcntl.ioctl(
                number, _PROCMAP_QUERY, bytearray(_QUERY.pack(104, _VMA_WRITABLE, place, 0, 0))
            )
    except OSError as error:
        return error.errno != errno.ENOENT  # ENOTTY: before Linux 6.11
    finally:
        os.close(number)
    return True


def _thread(caller: int, pid: int) -> int | None:
    """Return the thread that a caller calls `pid`; None if that cannot be known."""
    number = os.open(f"/proc/{caller}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        found: int = fcntl.ioctl(number, _NS_GET_PID_FROM_PIDNS, pid)
    except OSError:
        return _own_thread(caller, pid)
    finally:
        os.close(number)
    return found if found > 0 else None


def _own_thread(caller: int, pid: int) -> int | None:
    """Return a thread of the caller's process by its pid in its own namespace (NSpid)."""
    for name in os.listdir(f"/proc/{caller}/task"):
        with open(f"/proc/{caller}/task/{name}/status", "rb") as file:
            _, _, rest = file.read().partition(b"\nNSpid:")
        ids = rest.partition(b"\n")[0].split()
        if ids and int(ids[-1]) == pid:
            return int(name)
    return None


@functools.cache
def _mask_size() -> int:
    """Return how many bytes the kernel's CPU masks have (cpumask_size())."""
    libc = ctypes.CDLL(None, use_errno=True)
    machine = {"x86_64": 204, "s390x": 240, "ppc64le": 223}.get(os.uname().machine, 123)
    buffer = ctypes.create_string_buffer(_MASK_BUFFER)
    size: int = libc.syscall(machine, 0, ctypes.c_size_t(_MASK_BUFFER), buffer)
    return size if size > 0 else 8


@functools.cache
def _cpu_ids() -> int:
    """Return nr_cpu_ids: a mask that has fewer bits is refused."""
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:
        return int(file.read().strip().replace("-", ",").split(",")[-1]) + 1
