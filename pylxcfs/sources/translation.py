"""The daemon's end of translator.py: start it when first needed, ask, start it again if it died."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

from pylxcfs.errors import Gone, SourceError
from pylxcfs.sources import translator
from pylxcfs.sources.kept import translate

#: Seconds to wait for an answer, which takes milliseconds; more than the helper's own patience.
_PATIENCE = 5.0

#: Seconds to wait for the first answer, as Python has to start. 20 ms, unless the disk is slow.
_FIRST_PATIENCE = 30.0

#: Longest answer. /proc/PID/cgroup has one path of at most 4096 bytes for each v1 hierarchy.
_ANSWER_SIZE = 1 << 17


class Translator:
    """A helper process that enters namespaces. One request at a time; safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def init_of(self, pid: int) -> int:
        """Return the pid of the init of a process's pid namespace."""
        answer = self._ask(b"P", f"/proc/{pid}/ns/pid")
        init = int(answer)
        if init <= 0:
            raise Gone("the init of the pid namespace is out of sight")
        return init

    def cgroup_of(self, pid: int) -> bytes:
        """Return /proc/PID/cgroup as the cgroup namespace of PID itself shows it."""
        return self._ask(b"C%d" % pid, f"/proc/{pid}/ns/cgroup")

    def close(self) -> None:
        """End the helper. Asking starts another."""
        with self._lock:
            self._end()

    def _ask(self, request: bytes, namespace: str) -> bytes:
        try:
            descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise translate(error, namespace) from None
        try:
            with self._lock:
                answer = self._exchange(request, descriptor)
        finally:
            os.close(descriptor)
        if not answer.startswith(b"+"):
            raise SourceError(f"{namespace}: {os.fsdecode(answer[1:])}")
        return answer[1:]

    def _exchange(self, request: bytes, descriptor: int) -> bytes:
        """Send and receive; with the lock held. A helper that has died is replaced once."""
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
