"""The listening socket of the resources service, held while its processes come and go.

Containers have the socket file bound, so it must stay the same socket. It is one of these:

    pylxcfs.socket                 systemd listens; it is passed by the name pylxcfs-listen
    RUNTIME_DIR/resources.sock     this process listens; systemd's fd store keeps it for the next
                                   start, by the name pylxcfs-resources

The process that answers is a child (resources/service.py). Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from pylxcfs.errors import InstanceError
from pylxcfs.keeper import child, listening, sdnotify

#: Names of descriptors that systemd passes.
LISTEN: Final = "pylxcfs-listen"
STORED: Final = "pylxcfs-resources"

_SOCKET: Final = "resources.sock"
_LOCK: Final = "resources.lock"
_BACKLOG: Final = 4096


def take(given: dict[str, int], directory: str, *, wanted: bool) -> dict[str, int]:
    """Take the socket from systemd's descriptors: its own, else a stored one if `wanted`.

    A stored one that stays in `given` is to be closed. Nothing answers on it any more, so its file
    is removed, if it is not that of systemd's socket now.
    """
    name = LISTEN if LISTEN in given else STORED
    taken = {name: given.pop(name)} if name in given and (wanted or name == LISTEN) else {}
    if STORED in given and LISTEN not in taken:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(directory, _SOCKET))
    return taken


def listen(directory: str) -> socket.socket:
    """Return a new socket in the runtime directory, in the place of a dead one.

    Any process may connect, and is told about itself. Raise OSError; InstanceError if another
    process listens there, as that would not notice that it gets no connections any more.
    """
    # One process at a time: else two that start could both replace the same dead socket.
    lock = os.open(os.path.join(directory, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        if listening.is_live(directory, _SOCKET, socket.SOCK_STREAM):
            raise InstanceError(
                f"another resources service listens at {os.path.join(directory, _SOCKET)}",
                "end that one (pylxcfs mount --resources, or pylxcfs resources-service), or name"
                " another directory with --runtime-dir",
            )
        return listening.listen(directory, _SOCKET, socket.SOCK_STREAM, _BACKLOG, 0o666)
    finally:
        os.close(lock)


def _remove(path: str, made: os.stat_result) -> None:
    """Remove the file of a socket, if it is still the one that was made."""
    with contextlib.suppress(OSError):
        if os.path.samestat(made, os.stat(path)):
            os.unlink(path)


@contextlib.contextmanager
def listener_in(directory: str) -> Iterator[socket.socket]:
    """Listen in the runtime directory; remove the socket at the end. Raise as `listen`."""
    path = os.path.join(directory, _SOCKET)
    with listen(directory) as listener:
        ours = os.stat(path)
        try:
            yield listener
        finally:
            _remove(path, ours)


class Resources:
    """The socket of one runtime directory, and the process that answers on it."""

    def __init__(
        self,
        runtime_dir: str,
        command: Sequence[str],
        config_fd: int,
        notifier: sdnotify.Notifier,
        given: Mapping[str, int],
    ) -> None:
        """`given`: the socket, as `take` returns it; else it is made. Raise as `listen`."""
        self._command = command
        self._config_fd = config_fd
        self._notifier = notifier
        self._ours = LISTEN not in given
        if not self._ours:
            self._listener = socket.socket(fileno=given[LISTEN])
        elif STORED in given:
            self._listener = socket.socket(fileno=given[STORED])
        else:
            self._listener = listen(runtime_dir)
            if notifier.keeps_descriptors:
                # FDPOLL=0: else every connection would wake systemd.
                notifier.send(
                    "FDSTORE=1", f"FDNAME={STORED}", "FDPOLL=0", fds=[self._listener.fileno()]
                )
        #: Its path on the host; None if systemd listens at something else than a path.
        self.path: str | None = os.path.join(runtime_dir, _SOCKET)
        self._made: os.stat_result | None = None
        if self._ours:
            with contextlib.suppress(OSError):
                self._made = os.stat(self.path)
        else:
            name = self._listener.getsockname()
            self.path = name if isinstance(name, str) and name.startswith("/") else None
        self.process: child.Child | None = None

    def start(self) -> None:
        """Start a process that answers. Raise OSError."""
        numbers = [self._listener.fileno(), self._config_fd]
        command = [*self._command, *map(str, numbers)]
        self.process = child.fork(lambda: child.execute(command, numbers))

    def restart(self) -> None:
        """End the process, so that another one starts, with the configuration as it is now."""
        if self.process is not None:
            self.process.send(signal.SIGKILL)

    def reap(self) -> int:
        """Return the exit code of the process, which has ended."""
        process, self.process = self.process, None
        return process.reap() if process is not None else 0

    def close(self, *, keep: bool) -> None:
        """End the process. `keep`: the socket is for the next start, as far as that can be."""
        if self.process is not None:
            self.process.send(signal.SIGKILL)
            self.reap()
        if self._ours and not (keep and self._notifier.keeps_descriptors):
            self._notifier.send("FDSTOREREMOVE=1", f"FDNAME={STORED}")
            if self.path is not None and self._made is not None:
                _remove(self.path, self._made)
        self._listener.close()  # after its file, which nobody replaces while it listens
