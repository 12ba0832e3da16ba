"""What a container with CAP_SYS_PTRACE sees of a process of ours in its pid namespace."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from tests.conftest import wait_until
from tests.kit.container import Container

#: Stops such a process, and opens its directories in /proc.
_LOOK = """
import json, os, signal, sys

def above(link):
    at = os.open(link, os.O_PATH)
    ways = (".", "..", "/".join(9 * [".."]))
    return [sorted(os.listdir(os.open(way, os.O_RDONLY, dir_fd=at))) for way in ways]

def read(path):
    with open(path) as file:
        return file.read()

def memory(process):
    # How much more it may have.
    limits = read(f"{process}/limits")
    soft, hard, _ = limits.partition("Max address space")[2].split()[:3]
    assert soft == hard
    return int(hard) - int(read(f"{process}/statm").split()[0]) * os.sysconf("SC_PAGESIZE")

def look(process):
    if f"/{sys.argv[1]}\\0" not in read(f"{process}/cmdline"):
        return None
    os.kill(int(process[6:]), signal.SIGSTOP)
    while (state := read(f"{process}/stat").rpartition(") ")[2][0]) != "T":
        if state in "ZX":
            return None
    descriptors = [os.path.join(process, "fd", name) for name in os.listdir(f"{process}/fd")]
    return {
        "root": above(f"{process}/root"),
        "cwd": above(f"{process}/cwd"),
        "directories": [os.readlink(path) for path in descriptors if os.path.isdir(path)],
        "oom_score_adj": int(read(f"{process}/oom_score_adj")),
        "memory": memory(process),
        "sockets": sum(os.readlink(path).startswith("socket:") for path in descriptors),
        "descriptors": len(descriptors),
        "namespaces": [os.readlink(f"{process}/ns/{name}") for name in ("net", "ipc")],
        "filtered": "Seccomp:\\t2" in read(f"{process}/status"),
        "program": os.statvfs(f"{process}/exe").f_flag & os.ST_RDONLY,
    }

found = None
while not found:
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            found = found or look(f"/proc/{name}")
        except OSError:
            pass  # it has ended
print(json.dumps(found), flush=True)
"""


def tried(libc: ctypes.CDLL, end: int) -> list[int]:
    """Return what each way to another descriptor gives this process, and to another group."""
    return [
        libc.syscall(438, os.pidfd_open(1), 0, 0),  # pidfd_getfd
        libc.openat(-100, b"/", os.O_RDONLY),
        libc.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0),
        libc.recvmsg(end, bytes(64), socket.MSG_DONTWAIT),
        libc.setpgid(0, 0),
    ]


def seen_of(container: Container, file: str, use: Callable[[], object]) -> dict[str, Any]:
    """Return what it sees of the process that runs `file`, which `use` has started."""
    argv = [sys.executable, "-c", _LOOK, file]
    with container.popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout

        def is_seen() -> bool:
            use()
            return bool(select.select([process.stdout], [], [], 0)[0])

        try:
            wait_until(is_seen, 60, what=f"a process of {file} in the container")
            found: dict[str, Any] = json.loads(process.stdout.readline())
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    return found
