"""A service whose client ends while it is read for, and whose pid another process gets.

For a new pid namespace, of which this process is the init: `python -m tests.cgroup.reused
DIRECTORY LIMIT VALUE FIRST SECOND`. The client enters the cgroups whose cgroup.procs FIRST lists,
asks for events, and leaves the connection to this process. A write of VALUE to LIMIT makes the
service read. Prints whether the pid was reused in the cgroups of SECOND, the limit that the service
has read of it, and how many events were sent.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from pylxcfs.resources.model import Resources
from pylxcfs.resources.query import Query
from tests.kit.asking import rest, serving

_CLIENT = r"""
import socket, sys
for file in sys.argv[3].split():
    open(file, "w").write("0")
one = socket.socket(fileno=int(sys.argv[2]))
one.connect(sys.argv[1])
one.send(b"GET /v1/self/events HTTP/1.1\r\nHost: x\r\n\r\n")
print(flush=True)
sys.stdin.read()
"""
_LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


def _take(pid: int) -> subprocess.Popen[bytes]:
    """Start a process with this pid."""
    while True:
        _LAST_PID.write_text(str(pid - 1))
        process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        if process.pid == pid:
            return process
        process.kill()
        process.wait()


def main(directory: str, limit: str, value: str, first: str, second: str) -> None:
    """Run the client and the service."""
    query = Query()
    of = query.of

    def swapped(pid: int) -> Resources:
        query.of = of  # type: ignore[method-assign]
        client.kill()
        client.wait()
        with _take(pid) as other:
            for file in second.split():
                Path(file).write_text(str(pid))
            found = of(pid)
            print(other.pid == client.pid, found.memory.limit_bytes)
            other.kill()
        return found

    with socket.socket(socket.AF_UNIX) as held, serving(Path(directory), query) as path:
        command = [sys.executable, "-c", _CLIENT, str(path), str(held.fileno()), first]
        client = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[held.fileno()]
        )
        assert client.stdout is not None
        client.stdout.readline()
        data = b""
        while b"event: resources" not in data or not data.endswith(b"\n\n\r\n"):
            data += held.recv(65536)
        query.of = swapped  # type: ignore[method-assign]
        Path(limit).write_text(value)
        print(rest(held).count(b"event: "))


if __name__ == "__main__":
    main(*sys.argv[1:])
