"""Signals and children of a process without threads.

Signals stay blocked for the whole life of the keeper and are read from a descriptor, so none
can arrive between a check and a wait, or while the interpreter shuts down. Decides nothing about
when to start or stop. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import struct
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, NoReturn

from pylxcfs.keeper.fusemount import libc

#: Ends the mount for good, whatever the options say about keeping it. Sent by `unmount`.
END_FOR_GOOD = signal.SIGRTMIN

HANDLED = frozenset(
    {
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGUSR2,
        END_FOR_GOOD,
    }
)

#: Left blocked for the server, which unblocks them when it has handlers: their default action
#: would end it while it starts.
HANDLED_LATER = frozenset({signal.SIGHUP, signal.SIGUSR2})

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_SIGINFO_SIZE = 128  # struct signalfd_siginfo; ssi_signo is its first u32
_SIGSET_WORDS = 16  # glibc's and musl's sigset_t: 1024 bits


class Child(NamedTuple):
    """A child that nothing else reaps, so that its pidfd stays good."""

    pid: int
    pidfd: int

    def send(self, number: int) -> None:
        """Send a signal; it may have ended already."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def wait(self, seconds: float) -> None:
        """Wait for its end, but not longer."""
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        poller.poll(seconds * 1000)

    def reap(self) -> int:
        """Wait for its end; return its exit code, negative for a signal."""
        _, status = os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        return os.waitstatus_to_exitcode(status)


class ServerProcess:
    """A server as a child, with the pipe of its heartbeat."""

    def __init__(self, command: Sequence[str], descriptors: Mapping[str, int]) -> None:
        """Start it; `descriptors` are flags and the descriptors that it inherits."""
        self.heartbeat, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        numbers = {**descriptors, "--heartbeat-fd": writing}
        words = [str(word) for pair in numbers.items() for word in pair]
        try:
            self.child = fork(lambda: execute([*command, *words], numbers.values()))
        except OSError:
            os.close(self.heartbeat)
            raise
        finally:
            os.close(writing)
        #: It has said that it is ready.
        self.serves = False
        #: It gets SIGKILL from the keeper, sooner or later.
        self.killed = False

    def beats(self) -> bytes:
        """Return what it wrote to the heartbeat pipe."""
        try:
            beats = os.read(self.heartbeat, 4096)
        except BlockingIOError:
            return b""
        if not beats:
            self._close_heartbeat()
        return beats

    def end(self) -> int:
        """Reap it; return its exit code, negative for a signal."""
        self._close_heartbeat()
        return self.child.reap()

    def _close_heartbeat(self) -> None:
        if self.heartbeat >= 0:
            os.close(self.heartbeat)
            self.heartbeat = -1


def block_signals() -> None:
    """Block what the keeper handles; the mask survives exec."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)


def signal_fd() -> int:
    """Return a non-blocking descriptor that yields the blocked signals."""
    bits = sum(1 << (number - 1) for number in HANDLED)
    words = [bits, *[0] * (_SIGSET_WORDS - 1)]
    mask = struct.pack(f"@{_SIGSET_WORDS}L", *words)
    number: int = libc.signalfd(-1, mask, os.O_CLOEXEC | os.O_NONBLOCK)
    if number < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), "signalfd")
    return number


def read_signals(number: int) -> list[int]:
    """Return the numbers of the signals that have arrived."""
    try:
        data = os.read(number, _SIGINFO_SIZE * 16)
    except BlockingIOError:
        return []
    return [
        struct.unpack_from("=I", data, start)[0] for start in range(0, len(data), _SIGINFO_SIZE)
    ]


def set_name(name: str) -> None:
    """Set the name that ps and top show (at most 15 bytes)."""
    libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def fork(work: Callable[[], int], *, dies_with_parent: bool = True) -> Child:
    """Run `work` in a child; its result is the exit code.

    The child leads a session of its own, so that a terminal's Ctrl-C reaches the keeper
    alone, and is killed by the kernel when the keeper ends, however that happens.
    """
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
            if dies_with_parent:
                libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                if os.getppid() != parent:  # it ended before prctl
                    os._exit(1)
            code = work()
        except OSError as error:
            sys.stderr.write(f"pylxcfs: {error}\n")
            sys.stderr.flush()
        finally:
            os._exit(code)
    try:
        return Child(pid, os.pidfd_open(pid))
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def execute(
    argv: Sequence[str], inherit: Iterable[int], stdio: Mapping[int, int] | None = None
) -> NoReturn:
    """Replace this (forked) process by a program.

    It gets the descriptors in `inherit`; `stdio` puts others in the place of 0, 1 and 2.
    """
    for number in inherit:
        os.set_inheritable(number, True)
    for standard, number in (stdio or {}).items():
        os.dup2(number, standard)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED - HANDLED_LATER)
    os.execvp(argv[0], list(argv))  # noqa: S606 (no shell, on purpose)


def close_others(*keep: int) -> None:
    """Close all descriptors but 0, 1, 2 and these."""
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > 2 and number not in keep:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(number)
