"""The server's end of translator.py: starts, asks and restarts the helper."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

from pylxcfs.errors import Gone, SourceError
from pylxcfs.sources import translator
from pylxcfs.sources.kept import Descriptor

#: Seconds to wait for an answer, which takes milliseconds. More than the helper's own time limit.
_PATIENCE = 5.0

#: Seconds to wait for the first answer, as Python has to start: 20 ms, more on a slow disk.
_FIRST_PATIENCE = 30.0

#: Longest answer. /proc/PID/cgroup has one path of at most 4096 bytes for each v1 hierarchy.
_ANSWER_SIZE = 1 << 17


class Translator:
    """A helper process that enters namespaces.

    One request at a time; safe for threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def init_of(self, namespace: Descriptor) -> int:
        """Return the pid of a pid namespace's init. Raise Gone, SourceError."""
        init = int(self._ask(b"P", namespace))
        if init <= 0:
            raise Gone("pid namespace: its init is not visible to the server")
        return init

    def cgroup_of(self, pid: int) -> bytes:
        """Return /proc/PID/cgroup as the cgroup namespace of PID itself shows it."""
        return self._ask(b"C%d" % pid, Descriptor.open(f"/proc/{pid}/ns/cgroup"))

    def close(self) -> None:
        """End the helper. The next request starts another."""
        with self._lock:
            self._end()

    def _ask(self, request: bytes, namespace: Descriptor) -> bytes:
        with self._lock:
            answer = self._exchange(request, namespace.number)
        if not answer.startswith(b"+"):
            raise SourceError(f"namespace helper: {os.fsdecode(answer[1:])}")
        return answer[1:]

    def _exchange(self, request: bytes, descriptor: int) -> bytes:
        """Send and receive, with the lock held.

        A helper that has died is replaced once.
        """
        for last in (False, True):
            connection = self._connection or self._start()
            try:
                socket.send_fds(connection, [request], [descriptor])
                answer = connection.recv(_ANSWER_SIZE)
                connection.settimeout(_PATIENCE)
            except OSError as error:
                self._end()
                if last or isinstance(error, TimeoutError):
                    raise SourceError(f"namespace helper: {error}") from None
                continue
            if answer:
                return answer
            self._end()
        raise SourceError("namespace helper: it ended without an answer")

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_FIRST_PATIENCE)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", translator.__file__, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                )
            except OSError as error:
                ours.close()
                raise SourceError(f"namespace helper: {error}") from None
        self._connection = ours
        return ours

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
