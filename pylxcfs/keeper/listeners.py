"""Seccomp listeners of containers, held while there is no agent to answer them.

A call waits as long as a listener is open and nobody answers; without one it fails with ENOSYS,
which programs take badly. So the sockets that runtimes connect to, the listeners and LXC's
connections belong to this process, and agents (syscalls/agent.py) come and go:

    RUNTIME_DIR/seccomp.sock        a stream: OCI runtimes send the container's state and listener
    RUNTIME_DIR/seccomp-lxc.sock    packets: liblxc's proxy

Under systemd with an fd store they are kept for the next start. Else, and when it ends for good, a
small process is left behind that lets the kernel answer, for as long as a container has the filter.
Standard library only; knows no calls and no containers.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from pylxcfs.keeper import child, sdnotify
from pylxcfs.keeper.listening import listen
from pylxcfs.keeper.report import ERR, WARNING, say

OCI: Final = "oci"
LXC: Final = "lxc"
_SOCKETS: Final = {OCI: "seccomp.sock", LXC: "seccomp-lxc.sock"}
_KINDS: Final = {OCI: socket.SOCK_STREAM, LXC: socket.SOCK_SEQPACKET}

#: Listeners that are held at most; each has 8 bytes in the memory that agents share.
MOST: Final = 4096
_WORD: Final = 8
_BACKLOG: Final = 128
#: Seconds to the next agent after one has ended: at once, and after a failure soon after a start.
_SOON_S: Final = 0.05
_FAILED_S: Final = 2.0

_RECV: Final = 0xC0502100
_SEND: Final = 0xC0182101
_RESP: Final = struct.Struct("=QqiI")
_CONTINUE: Final = 1


#: Names in the fd store: this, the kind, "-" and the number.
_NAME: Final = "pylxcfs-seccomp-"


def named(given: Mapping[str, int]) -> dict[str, int]:
    """Return those descriptors of an fd store that are listeners."""
    return {
        name: number
        for name, number in given.items()
        if re.fullmatch(rf"{_NAME}(?:{OCI}|{LXC})-\d{{1,4}}", name)
    }


class _Held(NamedTuple):
    kind: str
    descriptor: int


class Listeners:
    """The listeners of one runtime directory; `command` starts an agent."""

    def __init__(
        self,
        runtime_dir: str,
        command: Sequence[str],
        config_fd: int,
        notifier: sdnotify.Notifier | None = None,
        kept: Mapping[str, int] | None = None,
    ) -> None:
        """`kept`: descriptors of an earlier start by their names, as `named` chooses them."""
        self._command = command
        self._config_fd = config_fd
        self._directory = runtime_dir
        self._notifier = notifier
        self._held: dict[int, _Held] = {}
        for name, descriptor in (kept or {}).items():
            kind, _, number = name.removeprefix(_NAME).partition("-")
            self._held[int(number)] = _Held(kind, descriptor)
        self._shared = os.memfd_create("pylxcfs-seccomp", os.MFD_CLOEXEC)
        os.ftruncate(self._shared, MOST * _WORD)
        self._sockets = {
            kind: listen(self._directory, name, _KINDS[kind], _BACKLOG, 0o600)
            for kind, name in _SOCKETS.items()
        }
        self._channel: socket.socket | None = None
        self.agent: child.Child | None = None

    def handlers(self) -> dict[int, Callable[[], None]]:
        """Return what to do when a descriptor is readable."""
        return {} if self._channel is None else {self._channel.fileno(): self._on_message}

    def start(self) -> None:
        """Start an agent, and give it all that is held. Raise OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        numbers = [
            *(self._sockets[kind].fileno() for kind in _SOCKETS),
            theirs.fileno(),
            self._shared,
            self._config_fd,
        ]
        try:
            with theirs:
                command = [*self._command, *map(str, numbers)]
                self.agent = child.fork(lambda: child.execute(command, numbers))
        except OSError:
            ours.close()
            raise
        self._channel = ours
        for number in self._held:
            self._give(number)

    def end_agent(self) -> int:
        """Reap an agent that has ended; return its exit code."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        agent, self.agent = self.agent, None
        return agent.reap() if agent is not None else 0

    def _give(self, number: int) -> None:
        """Give one listener to the agent."""
        held = self._held[number]
        last = int.from_bytes(os.pread(self._shared, _WORD, number * _WORD), "little")
        if self._channel is not None:
            with contextlib.suppress(OSError):  # it has just ended; the next one gets it
                message = f"{held.kind} {number} {last}".encode()
                socket.send_fds(self._channel, [message], [held.descriptor])

    def _on_message(self) -> None:
        """Take a listener from the agent, or drop one whose container has ended."""
        if self._channel is None:
            return
        try:
            message, numbers, _, _ = socket.recv_fds(self._channel, 64, 1)
        except OSError:
            message, numbers = b"", []
        if not message:
            self._channel.close()
            self._channel = None
            return
        kind, *words = message.decode(errors="replace").split()
        if kind == "end":
            held = self._held.pop(int(words[0]), None)
            if held is not None:
                self._notify("FDSTOREREMOVE=1", int(words[0]), held)
                os.close(held.descriptor)
        elif numbers:
            self._hold(kind, numbers[0])

    def _hold(self, kind: str, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        number = next((one for one in range(MOST) if one not in self._held), None)
        if number is None or kind not in _SOCKETS:
            say(WARNING, f"more than {MOST} seccomp listeners; one is left to the kernel")
            child.fork(lambda: _pass_on([descriptor]), dies_with_parent=False)
            os.close(descriptor)
            return
        os.pwrite(self._shared, bytes(_WORD), number * _WORD)
        held = self._held[number] = _Held(kind, descriptor)
        if self._keeps:
            self._notify("FDSTORE=1", number, held, [descriptor])
        self._give(number)

    @property
    def _keeps(self) -> bool:
        return self._notifier is not None and self._notifier.keeps_descriptors

    def _notify(self, what: str, number: int, held: _Held, fds: Sequence[int] = ()) -> None:
        """Put a descriptor into systemd's fd store, or remove it."""
        if self._notifier is not None:
            self._notifier.send(what, f"FDNAME={_NAME}{held.kind}-{number}", fds=list(fds))

    def close(self, *, keep: bool) -> None:
        """End the agent. `keep`: for the next start; else the kernel answers from now on."""
        if self.agent is not None:
            self.agent.send(signal.SIGKILL)
            self.end_agent()
        for kind, listener in self._sockets.items():
            listener.close()
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._directory, _SOCKETS[kind]))
        numbers = [held.descriptor for held in self._held.values() if held.kind == OCI]
        if numbers and not (keep and self._keeps):
            for number, held in self._held.items():
                self._notify("FDSTOREREMOVE=1", number, held)
            try:
                child.fork(lambda: _pass_on(numbers), dies_with_parent=False)
            except OSError as error:
                say(ERR, f"calls of running containers fail from now on: {error.strerror}")
        for held in self._held.values():
            os.close(held.descriptor)
        self._held.clear()


def _pass_on(numbers: Sequence[int]) -> int:
    """Let the kernel answer every call, until no process has the filters any more."""
    child.set_name("pylxcfs-pass")
    child.close_others(*numbers)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, child.HANDLED)
    poller = select.poll()
    for number in numbers:
        poller.register(number, select.POLLIN)
    left = set(numbers)
    while left:
        for number, events in poller.poll():
            if events & select.POLLIN:
                _pass_one(number)
            elif events:
                poller.unregister(number)
                left.discard(number)
    return 0


def _pass_one(number: int) -> None:
    data = bytearray(80)
    # ENOENT: the caller was killed meanwhile.
    with contextlib.suppress(OSError):
        fcntl.ioctl(number, _RECV, data)
        (ident,) = struct.unpack_from("=Q", data)
        fcntl.ioctl(number, _SEND, _RESP.pack(ident, 0, 0, _CONTINUE))
