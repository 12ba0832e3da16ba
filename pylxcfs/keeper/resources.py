"""The listening socket of the resources service, held while its processes come and go.

Containers have the socket file bound, so it must stay the same socket. It is one of these:

    pylxcfs.socket                 systemd listens; it is passed by the name pylxcfs-listen
    RUNTIME_DIR/resources.sock     this process listens; systemd's fd store keeps it for the next
                                   start, by the name pylxcfs-resources

The process that answers is a child (resources/service.py). Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import Final

from pylxcfs.keeper import child, listening, sdnotify

#: Names of descriptors that systemd passes.
LISTEN: Final = "pylxcfs-listen"
STORED: Final = "pylxcfs-resources"

_SOCKET: Final = "resources.sock"
_BACKLOG: Final = 4096


def named(given: Mapping[str, int]) -> dict[str, int]:
    """Return those of systemd's descriptors that are the socket."""
    return {name: given[name] for name in (LISTEN, STORED) if name in given}


def listen(directory: str) -> socket.socket:
    """Return a new socket in the runtime directory, in the place of an old one. Raise OSError.

    Everybody may ask, and is told about itself.
    """
    return listening.listen(directory, _SOCKET, socket.SOCK_STREAM, _BACKLOG, 0o666)


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
        """`given`: systemd's descriptors, as `named` chooses them. Raise OSError."""
        self._directory = runtime_dir
        self._command = command
        self._config_fd = config_fd
        self._notifier = notifier
        self._ours = LISTEN not in given
        if not self._ours:
            self._listener = socket.socket(fileno=given[LISTEN])
            if STORED in given:  # from before pylxcfs.socket was enabled
                self._remove_stored()
                os.close(given[STORED])
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
        if not self._ours:
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
        self._listener.close()
        if self._ours and not (keep and self._notifier.keeps_descriptors):
            self._remove_stored()
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._directory, _SOCKET))

    def _remove_stored(self) -> None:
        self._notifier.send("FDSTOREREMOVE=1", f"FDNAME={STORED}")
