"""The host as a program with a 32-bit personality sees it.

On some machines (arm64: c_show, arch/arm64/kernel/cpuinfo.c) /proc/cpuinfo depends on the
reader's personality(2), which belongs to a thread: a separate thread sets it and reads. No other
file is treated this way.
"""

from __future__ import annotations

import ctypes
import os
import queue
import threading
from concurrent.futures import Future

from pylxcfs.errors import PylxcfsError, SourceError
from pylxcfs.sources.kept import read_whole
from pylxcfs.sources.procfs import HostFiles

#: linux/personality.h: the low byte of a personality, and the one that `setarch linux32` sets.
_PER_MASK = 0xFF
_PER_LINUX32 = 0x08

CPUINFO = "proc/cpuinfo"

#: Lines with numbers that differ from one read to the next.
_VARYING = (b"cpu MHz", b"bogomips", b"BogoMIPS")


def is_32bit(pid: int) -> bool:
    """Return whether a process has a 32-bit personality.

    False if that cannot be read. Kernel: proc_pid_personality (fs/proc/base.c).
    """
    try:
        return int(read_whole(f"/proc/{pid}/personality"), 16) & _PER_MASK == _PER_LINUX32
    except (PylxcfsError, ValueError):
        return False


class Host32(HostFiles):
    """Host files, with cpuinfo as a 32-bit program reads it."""

    def __init__(self, root: str = "/") -> None:
        super().__init__(root)
        self._asked: queue.SimpleQueue[Future[bytes] | None] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="linux32", daemon=True).start()

    def read(self, path: str) -> bytes:
        """Read a host file whole. Raise SourceError if it cannot be read."""
        if path != CPUINFO:
            return super().read(path)
        answer: Future[bytes] = Future()
        self._asked.put(answer)
        return answer.result()

    def close(self) -> None:
        """End the thread and close all files."""
        super().close()
        self._asked.put(None)

    def _serve(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        refused = libc.personality(ctypes.c_ulong(_PER_LINUX32)) < 0
        while (answer := self._asked.get()) is not None:
            try:
                if refused:
                    raise SourceError("personality(2) refuses a 32-bit personality")
                answer.set_result(read_whole(os.path.join(self.root, CPUINFO)))
            except PylxcfsError as error:
                answer.set_exception(error)


def host32(host: HostFiles) -> HostFiles | None:
    """Return the host for 32-bit readers.

    None where they read the same as 64-bit ones.
    """
    other = Host32(host.root)
    try:
        differs = _constant(other.read(CPUINFO)) != _constant(host.read(CPUINFO))
    except SourceError:
        differs = False
    if differs:
        return other
    other.close()
    return None


def _constant(text: bytes) -> list[bytes]:
    return [line for line in text.splitlines() if not line.startswith(_VARYING)]
