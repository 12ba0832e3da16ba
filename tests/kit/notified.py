"""Run a program whose calls are answered by the seccomp agent, as a runtime would start it.

    python notified.py SOCKET PROGRAM ARGUMENTS...

Installs a filter for sysinfo(2) and sched_getaffinity(2), sends its listener to the agent, and
becomes the program. Standard library alone, as it runs in containers.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import struct
import sys

#: By machine: seccomp(2), AUDIT_ARCH, and the two calls.
_MACHINES = {
    "x86_64": (317, 0xC000003E, (99, 204)),
    "aarch64": (277, 0xC00000B7, (179, 123)),
}
_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER = 1
_NEW_LISTENER = 1 << 3
_NOTIFY, _ALLOW = 0x7FC00000, 0x7FFF0000
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06


def _filter(arch: int, calls: tuple[int, int]) -> bytes:
    program = (
        (_LOAD, 0, 0, 4),  # seccomp_data.arch
        (_EQUAL, 0, 3, arch),
        (_LOAD, 0, 0, 0),  # seccomp_data.nr
        (_EQUAL, 2, 0, calls[0]),
        (_EQUAL, 1, 0, calls[1]),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _NOTIFY),
    )
    return b"".join(struct.pack("=HBBI", *line) for line in program)


def main() -> None:
    path, *argv = sys.argv[1:]
    number, arch, calls = _MACHINES[os.uname().machine]
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(_filter(arch, calls))
    program = struct.pack("@HP", (len(code) - 1) // 8, ctypes.addressof(code))
    assert libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    listener = libc.syscall(number, _SET_MODE_FILTER, _NEW_LISTENER, program)
    assert listener >= 0, os.strerror(ctypes.get_errno())
    state = {"ociVersion": "1.0.2", "fds": ["seccompFd"], "pid": os.getpid(), "state": {}}
    with socket.socket(socket.AF_UNIX) as agent:
        agent.connect(path)
        socket.send_fds(agent, [json.dumps(state).encode()], [listener])
    os.close(listener)
    os.execvp(argv[0], argv)


if __name__ == "__main__":
    main()
