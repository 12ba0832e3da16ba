"""Runs Python code as another user, or as root of a user namespace: `python asuser.py UID NS`.

The code comes on stdin. UID 0 is root of the user namespace; with NS "user" ids 0 to 65535 of the
new user namespace are those of the host from IDS on, with "-" there is no user namespace.
"""

from __future__ import annotations

import os
import sys

IDS = 100_000


def enter_user_namespace() -> None:
    """Make a user namespace and map its ids. Root of the host only."""
    import ctypes

    ours, theirs = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.read(ours, 1)
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{parent}/{name}", "w") as file:
                file.write(f"0 {IDS} 65536")
        os._exit(0)
    assert ctypes.CDLL(None).unshare(0x10000000) == 0  # CLONE_NEWUSER
    os.write(theirs, b"x")
    os.waitpid(child, 0)


if __name__ == "__main__":
    code = sys.stdin.read()
    uid, namespace = int(sys.argv[1]), sys.argv[2]
    if namespace == "user":
        enter_user_namespace()
    if uid or namespace == "user":
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    exec(compile(code, "stdin", "exec"), {"__name__": "code"})
