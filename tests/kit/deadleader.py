"""A process whose main thread has ended, while another thread lives and reads files on request."""

from __future__ import annotations

import contextlib
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import wait_until
from tests.kit.cgroups import Cgroup

_SYS_EXIT = {"x86_64": 60, "aarch64": 93}.get(platform.machine(), 0)
#: The main thread ends at the first line, the process with its input.
_PROGRAM = """
import ctypes, os, sys, threading
def work():
    for path in sys.stdin:
        print(open(path.strip()).read().encode().hex(), flush=True)
    os._exit(0)
print(b"ready".hex(), flush=True)
sys.stdin.readline()
threading.Thread(target=work).start()
ctypes.CDLL(None).syscall(int(sys.argv[1]), 0)
"""
_AS_INIT = ("unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc")


class DeadLeader:
    """The process, in a cgroup; its main thread lives until `end_main`."""

    def __init__(self, process: subprocess.Popen[bytes], *, is_init: bool) -> None:
        self._process = process
        self._is_init = is_init
        assert self._answer() == b"ready"

    @property
    def pid(self) -> int:
        if not self._is_init:
            return self._process.pid
        parent = self._process.pid
        found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return int(found[0])

    def end_main(self) -> None:
        self._write("")
        stat = Path(f"/proc/{self.pid}/stat")
        wait_until(lambda: b") Z " in stat.read_bytes(), what="the end of the main thread")

    def read(self, path: Path) -> bytes:
        """Return what its living thread reads."""
        self._write(str(path))
        return self._answer()

    def _answer(self) -> bytes:
        assert self._process.stdout is not None
        return bytes.fromhex(self._process.stdout.readline().decode())

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()


@contextlib.contextmanager
def dead_leader(cgroup: Cgroup, *, is_init: bool) -> Iterator[DeadLeader]:
    """Start one; `is_init`: as the init of a pid namespace of its own."""
    argv = [*_AS_INIT] if is_init else []
    argv += [sys.executable, "-I", "-S", "-c", _PROGRAM, str(_SYS_EXIT)]
    with subprocess.Popen(
        cgroup.command(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            yield DeadLeader(process, is_init=is_init)
        finally:
            process.kill()
