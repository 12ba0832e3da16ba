"""Helper processes: for system calls that the server must not make itself.

A helper is a file that imports confinement.py and the standard library alone. Python runs it with
-I and -S, and with the number of its socket (SOCK_SEQPACKET). It answers one request at a time:
first of all "+", then to each request "+" and the answer, or "-" and the reason. What it does may
block in the kernel for as long as a container likes, even so that SIGKILL waits; then it is left
behind, and the server goes on.

Its program is in a read-only mount, and its working directory is an empty one without a parent
(detached.py): chroot(".") is what a process of it needs before a container may reach it.

    translator.py    enters namespaces, which a process with threads cannot
    reading.py       examines threads of containers
    ascaller.py      changes cgroups with a caller's credentials: its "+" says that a child has the
                     request. Several run at a time, and each answers on a stream of its own
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
import time

from pylxcfs.errors import Gone, SourceError
from pylxcfs.sources import detached, reading, translator
from pylxcfs.sources.kept import Descriptor

#: Runs a file as a program for which pylxcfs can be imported: with -I and -S Python knows only its
#: own modules.
_RUN = (
    "import runpy, sys; sys.path.append(sys.argv[1]); del sys.argv[:2];"
    " runpy.run_path(sys.argv[0], run_name='__main__')"
)
_PACKAGES = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

#: Longest answer. /proc/PID/cgroup has one path of at most 4096 bytes for each v1 hierarchy.
_ANSWER_SIZE = 1 << 18

#: Seconds to the next start after a helper that was late: doubled each time, up to the second.
_PAUSE_S = (0.5, 64.0)

#: Seconds that one has to end by itself.
_END_S = 1.0

#: Helpers that were killed and have not ended.
_MOST_LATE = 8


class HelperProcess:
    """One helper, started at its first request and again when it has ended; safe for threads.

    `answer_s`, `start_s`: how long it may take to answer and to start, in seconds.
    """

    def __init__(self, file: str, answer_s: float, start_s: float) -> None:
        self._file = file
        self._answer_s, self._start_s = answer_s, start_s
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        #: Whether its program runs from the read-only copy.
        self._copied = True
        self._late: list[subprocess.Popen[bytes]] = []
        self._pause_s = _PAUSE_S[0]
        self._paused_until = 0.0

    def start(self) -> None:
        """Start it now, so that the first request finds it ready. Raise SourceError."""
        with self._lock:
            if self._connection is None:
                self._start()

    def settle(self, timeout_s: float) -> None:
        """Wait until it is ready, if it was started."""
        with self._lock:
            connection = self._connection
            if connection and not self._ready and _has_message(connection, timeout_s):
                self._ready = bool(connection.recv(1))

    def ask(self, request: bytes, *descriptors: int) -> bytes:
        """Return the answer to a request. Raise SourceError."""
        with self._lock:
            for last in (False, True):
                try:
                    answer = self._exchange(request, descriptors)
                    break
                except OSError as error:  # it was killed, say by an operator
                    self._end()
                    if last:
                        raise self._error(error) from None
        if not answer.startswith(b"+"):
            raise self._error(os.fsdecode(answer[1:]))
        return answer[1:]

    def close(self) -> None:
        """End the helper. The next request starts another."""
        with self._lock:
            self._end()

    def _exchange(self, request: bytes, descriptors: tuple[int, ...]) -> bytes:
        """Send and receive; raise OSError if the helper ends meanwhile."""
        connection = self._connection or self._start()
        if not self._ready:
            # One that starts slowly is waited for again at the next request.
            if not _has_message(connection, self._start_s):
                raise self._error("it starts")
            self._ready = bool(connection.recv(1))
            if not self._ready:
                raise ConnectionResetError("it ended when it started")
        socket.send_fds(connection, [request], descriptors)
        if not _has_message(connection, self._answer_s):
            self._leave()
            raise self._error("no answer in time")
        answer = connection.recv(_ANSWER_SIZE)
        if not answer:
            raise ConnectionResetError("it ended without an answer")
        return answer

    def _start(self) -> socket.socket:
        self._late = [process for process in self._late if process.poll() is None]
        if len(self._late) >= _MOST_LATE or time.monotonic() < self._paused_until:
            raise self._error("it was late before")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = self._run(theirs.fileno())
            except OSError as error:
                ours.close()
                raise self._error(error) from None
        self._connection, self._ready = ours, False
        return ours

    def _run(self, connection: int) -> subprocess.Popen[bytes]:
        directory, name = os.path.split(os.path.realpath(sys.executable))
        try:
            programs = detached.read_only(directory) if self._copied else -1
        except OSError:  # Linux before 5.12, or the sandbox of a service manager
            programs = -1
        if programs < 0:
            return self._run_as(connection, sys.executable)
        try:
            # By the server's number: the helper's descriptors are closed before.
            return self._run_as(connection, f"/proc/{os.getpid()}/fd/{programs}/{name}")
        except OSError:  # a policy by path
            return self._run_as(connection, sys.executable)
        finally:
            os.close(programs)

    def _run_as(self, connection: int, program: str) -> subprocess.Popen[bytes]:
        empty = detached.empty_directory()
        try:
            return subprocess.Popen(
                command(self._file, connection),
                executable=program,
                pass_fds=[connection],
                stdin=subprocess.DEVNULL,
                cwd=f"/proc/self/fd/{empty}",
                env=_environment(),
            )
        finally:
            os.close(empty)

    def _end(self) -> None:
        """Let it end with its connection, and what it has started with it; else kill it."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            try:
                if self._process.wait(_END_S) > 0 and not self._ready:
                    # Say, a Python that finds its libraries by its own path ($ORIGIN, ld.so(8)).
                    self._copied = False
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._forget()

    def _leave(self) -> None:
        """Kill a helper that is late, and do not wait for its end."""
        if self._process is not None:
            self._process.kill()
            self._late.append(self._process)
        self._forget()
        now = time.monotonic()
        if now - self._paused_until > _PAUSE_S[1]:
            self._pause_s = _PAUSE_S[0]
        self._paused_until = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, _PAUSE_S[1])

    def _forget(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._process = None

    def _error(self, reason: object) -> SourceError:
        return SourceError(f"helper process {os.path.basename(self._file)}: {reason}")


def command(file: str, connection: int) -> list[str]:
    """Return the arguments that start a helper."""
    return [sys.executable, "-I", "-S", "-c", _RUN, _PACKAGES, file, str(connection)]


def _environment() -> dict[str, str]:
    """Return what a helper gets: a container that traces it would see the rest of ours."""
    needed = os.environ.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": needed} if needed else {}


def _has_message(connection: socket.socket, seconds: float) -> bool:
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


class Translator(HelperProcess):
    """The helper that enters namespaces."""

    def __init__(self) -> None:
        # More than its own patience with a container, and than Python on a slow disk.
        super().__init__(translator.__file__, answer_s=5.0, start_s=30.0)

    def process_of(self, namespace: Descriptor, number: int) -> int:
        """Return the pid of process `number` of a pid namespace. Raise Gone, SourceError."""
        pid = int(self.ask(b"P%d" % number, namespace.number))
        if pid <= 0:
            raise Gone(f"pid namespace: its process {number} is not visible to the server")
        return pid

    def cgroups_of(self, pid: int) -> list[bytes]:
        """Return /proc/PID/cgroup as the cgroup namespace of PID itself shows it.

        Then /proc/self/cgroup of the helper, as that namespace and as the server's shows it.
        """
        namespace = Descriptor.open(f"/proc/{pid}/ns/cgroup")
        return self.ask(b"C%d" % pid, namespace.number).split(b"\0")


class Positions(HelperProcess):
    """The helper that examines threads in read(2)."""

    def __init__(self) -> None:
        # Readers of all containers wait for the answer, which takes 0.1 ms.
        super().__init__(reading.__file__, answer_s=0.05, start_s=0.0)

    def offset(self, tid: int) -> int | None:
        """Return reading.offset(); AWAKE where the helper does not answer."""
        try:
            answer = self.ask(b"%d" % tid)
        except SourceError:
            return reading.AWAKE
        return int(answer) if answer else None

    def opens(self, tid: int) -> bool:
        """Return reading.opens(); True where the helper does not answer."""
        try:
            return bool(self.ask(b"O%d" % tid))
        except SourceError:
            return True
