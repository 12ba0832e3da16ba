"""One instance: the state that its keeper wrote, facts of its processes, its server's counters.

An instance runs while a process holds the lock of the pid file: a status.json without it is an
old one. The counters are those of server/counters.py.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from typing import Any, Final, NamedTuple

import psutil

from pylxcfs import __version__
from pylxcfs.keeper import fusemount, holder, instance

#: Seconds that a server has to answer. One that is well takes milliseconds.
_PATIENCE_S: Final = 1.0
_MOST_BYTES: Final = 64 << 20

#: The memory of a connection tells the device of its mount (fuse/memory.py).
_MEMORY: Final = re.compile(r"/memfd:pylxcfs-(?:own|caller)-(\d+:\d+)\b")


class Place(NamedTuple):
    """Where an instance is: as its configuration says."""

    mountpoint: str
    runtime_dir: str
    pid_path: str

    @property
    def caller_mount(self) -> str:
        """Return where the caller mount is."""
        return os.path.join(self.runtime_dir, "caller")


def gather(place: Place) -> dict[str, Any]:
    """Return the state of the instance, as `status --json` prints it, without containers."""
    keeper = instance.owner(place.pid_path)
    state: dict[str, Any] = {
        "state": "stopped",
        "text": "no instance runs",
        "mountpoint": place.mountpoint,
        "runtime_dir": place.runtime_dir,
        "since": None,
        "version": __version__,
        "keeper": None,
        "server": None,
        "mounts": [],
        "counts": {},
        "counters": None,
    }
    if keeper is None:
        if holder.is_held(place.runtime_dir):
            state |= {"state": "held", "text": "the mounts are held for the next start"}
        state["mounts"] = _mounts(place, frozenset())
        return state
    written = _written(os.path.join(place.runtime_dir, "status.json"))
    if written.get("keeper") != keeper:
        written = {}  # of an earlier keeper
    place = place._replace(
        mountpoint=written.get("mountpoint") or instance.mountpoint_of(keeper) or place.mountpoint
    )
    server = facts(written.get("server"), parent=keeper)
    counters = ask(place.runtime_dir) if server else None
    about = facts(keeper)
    if about is not None:
        about |= {"version": written.get("version"), "resources": written.get("resources")}
    if server is not None:
        server["version"] = counters["version"] if counters else None
    return state | {
        "state": written.get("state", "starting"),
        "text": written.get("text", ""),
        "mountpoint": place.mountpoint,
        "since": written.get("since"),
        "keeper": about,
        "server": server,
        "mounts": _mounts(place, devices_of(keeper)),
        "counts": written.get("counts", {}),
        "counters": counters,
    }


def ask(runtime_dir: str, name: str = "counters") -> dict[str, Any] | None:
    """Return the counters of a socket (the server's); None if there is no answer."""
    try:
        content = json.loads(exchange(os.path.join(runtime_dir, name)))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def exchange(path: str, request: bytes = b"") -> bytes:
    """Send a request to a unix socket; return all bytes of the answer. Raise OSError."""
    directory, name = os.path.split(path)
    # The path of a socket is at most 107 bytes long; that of a directory may be longer.
    number = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    text = b""
    until = time.monotonic() + _PATIENCE_S
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_PATIENCE_S)
            connection.connect(f"/proc/self/fd/{number}/{name}")
            if request:  # even of no bytes the kernel says EPIPE where the answer is complete
                connection.sendall(request)
            while piece := connection.recv(1 << 18):
                text += piece
                if time.monotonic() > until or len(text) > _MOST_BYTES:
                    raise TimeoutError("timed out")
    finally:
        os.close(number)
    return text


def devices_of(pid: int) -> frozenset[str]:
    """Return the devices ("0:57") of the connections that a process holds.

    Empty where that may not be known: only root may ask.
    """
    found = set()
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            match = _MEMORY.match(os.readlink(f"/proc/{pid}/fd/{name}"))
            if match:
                found.add(match[1])
    except OSError:
        pass  # it has ended, or belongs to another user
    return frozenset(found)


def facts(pid: object, parent: int | None = None) -> dict[str, Any] | None:
    """Return facts of a process; None if it has ended."""
    if not isinstance(pid, int) or pid <= 0:
        return None
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            if parent is not None and process.ppid() != parent:
                return None  # it has ended, and the number is another process now
            times = process.cpu_times()
            return {
                "pid": pid,
                "age_s": round(time.time() - process.create_time(), 1),
                "rss_bytes": process.memory_info().rss,
                "cpu_s": round(times.user + times.system, 2),
                "open_files": _open_files(process),
            }
    except psutil.Error:
        return None


def _mounts(place: Place, held: frozenset[str]) -> list[dict[str, Any]]:
    """Return both mounts; `alive`: the keeper holds the connection of what is mounted there.

    None for a user who may not know what a process holds.
    """
    known = os.geteuid() == 0 or bool(held)
    found = []
    for kind, path in (("own", place.mountpoint), ("caller", place.caller_mount)):
        mounted = fusemount.mounted_at(path)
        ours = mounted is not None and mounted.fstype == fusemount.FSTYPE
        device = mounted.device if mounted is not None and ours else None
        found.append(
            {
                "kind": kind,
                "mountpoint": path,
                "device": device,
                "alive": device in held if known else None,
            }
        )
    return found


def _written(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            content = json.load(file)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _open_files(process: psutil.Process) -> int | None:
    try:
        count: int = process.num_fds()
    except psutil.AccessDenied:
        return None
    return count
