"""The pid file and its lock: one keeper for each.

The lock is a POSIX record lock (F_SETLK) as LXCFS's: it lasts through exec, so whoever takes
it may become the keeper, and it names its holder.
"""

from __future__ import annotations

import fcntl
import os
import struct

from pylxcfs.errors import HostError, InstanceError

_FLOCK = struct.Struct("@hhqqi0q")  # l_type, l_whence, l_start, l_len, l_pid


def claim(path: str) -> int:
    """Lock the pid file, write our pid, and return its open descriptor."""
    while True:
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise HostError(
                f"the pid file {path} cannot be written: {error.strerror}",
                "name another place with --pidfile or --runtime-dir",
            ) from error
        try:
            fcntl.lockf(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(number)
            raise InstanceError(
                f"another instance runs: {_who(owner(path))} holds {path}",
                "end it with 'pylxcfs unmount', or give this one its own --runtime-dir",
            ) from error
        if _is_same(number, path):
            break
        os.close(number)  # its last owner removed it between our open and our lock
    os.fchmod(number, 0o644)  # whatever the umask
    os.ftruncate(number, 0)
    os.pwrite(number, f"{os.getpid()}\n".encode(), 0)
    return number


def owner(path: str) -> int | None:
    """Return the pid of the process that holds the lock, if any."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(number, fcntl.F_GETLK, question))
    finally:
        os.close(number)
    return pid if kind != fcntl.F_UNLCK and pid > 0 else None


def mountpoint_of(pid: int) -> str | None:
    """Return the mountpoint of keeper `pid`; None if it is no keeper."""
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="surrogateescape") as file:
            words = file.read().split("\0")
        return words[words.index("--mountpoint") + 1]
    except (OSError, ValueError):
        return None


def _is_same(number: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(number), os.stat(path))
    except FileNotFoundError:
        return False


def _who(pid: int | None) -> str:
    if pid is None:
        return "a process"
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return f"{file.read().strip()} (pid {pid})"
    except OSError:
        return f"pid {pid}"
