"""Run a program with a bind mount that maps ids, as pods with user namespaces have.

    python -m tests.mount.idmapped SOURCE TARGET COMMAND...      in a mount namespace of its own

The ids are those of a new user namespace in which 0 is 100000 of the host. Exit 77: this kernel
or file system does not map ids. Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import subprocess
import sys

_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_CLONE, _EMPTY_PATH, _MOVE_EMPTY_PATH = 1, 0x1000, 4
_IDMAP = 0x00100000
_libc = ctypes.CDLL(None, use_errno=True)


def _call(number: int, *words: object) -> int:
    result: int = _libc.syscall(number, *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def user_namespace() -> int:
    """Return a descriptor of a user namespace in which 0 is 100000 of the host."""
    command = ["unshare", "--user", "sh", "-c", "echo ready; read line"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{process.pid}/{name}", "w") as file:
                file.write("0 100000 65536\n")
        return os.open(f"/proc/{process.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)


def bind(source: str, target: str) -> None:
    """Bind a path with mapped ids. Raise OSError."""
    tree = _call(_OPEN_TREE, -100, source.encode(), _CLONE | os.O_CLOEXEC)
    attributes = struct.pack("=QQQQ", _IDMAP, 0, 0, user_namespace())
    _call(_MOUNT_SETATTR, tree, b"", _EMPTY_PATH, attributes, len(attributes))
    _call(_MOVE_MOUNT, tree, b"", -100, target.encode(), _MOVE_EMPTY_PATH)


if __name__ == "__main__":
    try:
        bind(*sys.argv[1:3])
    except OSError as error:
        print(f"no mapped ids: {error}", file=sys.stderr)
        sys.exit(77 if error.errno in (errno.EINVAL, errno.ENOSYS) else 1)
    os.execvp(sys.argv[3], sys.argv[3:])
