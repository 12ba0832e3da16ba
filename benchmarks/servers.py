"""The servers that are compared: start, stop, CPU time and memory.

A server is identified by its seat: "lxcfs" (C LXCFS, Debian's package), "pylxcfs", "pylxcfs-ttl0"
(the same with --cache-ttl=0), "pylxcfs-64cpu" (on a captured host, captured.py) and "procfs" (the
kernel's files, no process).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from benchmarks import captured
from benchmarks.measure import Memory
from tests.conftest import wait_until

REPOSITORY = Path(__file__).resolve().parent.parent
PR_SET_PDEATHSIG = 1
MNT_DETACH = 2
START_S = 20.0
#: The seat of a server that has a captured host's files.
CAPTURED = "pylxcfs-64cpu"
_libc = ctypes.CDLL(None, use_errno=True)


class ServerError(Exception):
    """A server did not start."""


class Server:
    """A running server; for the kernel's own files one without processes."""

    def __init__(
        self,
        seat: str,
        mountpoint: Path,
        process: subprocess.Popen[bytes] | None,
        runtime: Path | None = None,
    ) -> None:
        self.seat = seat
        self.mountpoint = mountpoint
        self._process = process
        self._runtime = runtime

    def root(self, bind: str) -> Path:
        """Return the root of the mount for this way of binding."""
        if bind == "caller" and self._runtime is not None:
            caller = self._runtime / "caller"
            if caller.is_dir():
                return caller
        return self.mountpoint

    def processes(self) -> list[psutil.Process]:
        """List the server's processes, its first one first."""
        if self._process is None:
            return []
        first = psutil.Process(self._process.pid)
        return [first, *first.children(recursive=True)]

    def cpu_ns(self) -> int | None:
        """Return the CPU time of its processes, with reaped children."""
        if self._process is None:
            return None
        total = 0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess, OSError):
                total += _process_clock_ns(process.pid)
                times = process.cpu_times()
                total += int((times.children_user + times.children_system) * 1e9)
        return total

    def memory(self) -> Memory:
        """Return the memory of all its processes."""
        rss = pss = 0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                full = process.memory_full_info()
                rss += full.rss
                pss += full.pss
        return Memory(rss, pss)


def _process_clock_ns(pid: int) -> int:
    """Return the CPU time of a process, in all threads.

    Exact, while psutil counts ticks of 10 ms. The clock id is made from the pid as in
    clock_getcpuclockid(3).
    """
    return time.clock_gettime_ns((~pid << 3) | 2)


def _end_with_parent() -> None:
    """Make the server end with the benchmark; runs before exec."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def command(seat: str, mountpoint: Path, directory: Path) -> list[str]:
    """Return the command that starts the server of a seat."""
    if seat == "lxcfs":
        return ["lxcfs", "-f", "-l", "--enable-cfs", "-p", f"{directory}/pid", str(mountpoint)]
    options = ["--cache-ttl=0"] if seat == "pylxcfs-ttl0" else []
    return [
        *(sys.executable, "-m", "pylxcfs", "mount"),
        *options,
        *("--runtime-dir", str(directory), str(mountpoint)),
    ]


def missing_peer() -> bool:
    """Return whether C LXCFS is not installed."""
    return shutil.which("lxcfs") is None


@contextlib.contextmanager
def running(seat: str, directory: Path, argv: Sequence[str] | None = None) -> Iterator[Server]:
    """Run the server of a seat; end it and unmount afterwards."""
    if seat == "procfs":
        yield Server(seat, Path("/"), None)
        return
    place = directory / seat
    mountpoint = place / "mount"
    runtime = place / "run"
    mountpoint.mkdir(parents=True)
    runtime.mkdir()
    log = place / "log"
    environment = {}
    if seat == CAPTURED:
        environment["PYTHONPATH"] = captured.install(place)
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv or command(seat, mountpoint, runtime),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=REPOSITORY,
            env={**os.environ, **environment},
            preexec_fn=_end_with_parent,
        )
    try:
        wait_until(
            lambda: process.poll() is not None or _serves(mountpoint),
            START_S,
            what=f"{seat} to serve",
        )
        if process.poll() is not None:
            raise ServerError(f"{seat} ended at once:\n{log.read_text(errors='replace')[-2000:]}")
        yield Server(seat, mountpoint, process, runtime)
    finally:
        _stop(process, mountpoint)


def _serves(mountpoint: Path) -> bool:
    """Return whether the filesystem is mounted and answers."""
    try:
        return bool((mountpoint / "proc/uptime").read_bytes())
    except OSError:
        return False


def _stop(process: subprocess.Popen[bytes], mountpoint: Path) -> None:
    tree = [process.pid]
    with contextlib.suppress(psutil.NoSuchProcess):
        tree += [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        # The unmount ends the processes that serve it, even if the first one hangs.
        _libc.umount2(os.fsencode(mountpoint), MNT_DETACH)
        process.kill()
        process.wait()
    _libc.umount2(os.fsencode(mountpoint), MNT_DETACH)
    for pid in tree[1:]:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            psutil.Process(pid).wait(timeout=5)
