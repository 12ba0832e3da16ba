"""What the keeper tells others: lines on stderr, and its state.

The state goes to systemd (STATUS=) and to RUNTIME_DIR/status.json, which `pylxcfs status` reads:

    starting    no read through the mount has worked yet
    serving     a server answers
    failing     servers have failed; another one is started
    rescue      no server can be had; the rescue server answers with the host's values
    stopping    the keeper ends

Beside the state are counts since the keeper began:

    restarts    servers after the first one
    failures    servers that ended by themselves, or did not start
    aborts      connections that ended and were mounted again
    heals       starts of the process that replaces dead files in containers

`resources` is the path of the resources socket, null without one.

Standard library only. When the state changes is the keeper's business.
"""

from __future__ import annotations

import contextlib
import json
import os
import time

from pylxcfs import __version__
from pylxcfs.keeper import sdnotify

ERR, WARNING, NOTICE, INFO = 3, 4, 5, 6

STARTING, SERVING, FAILING, RESCUE, STOPPING = (
    "starting",
    "serving",
    "failing",
    "rescue",
    "stopping",
)

RESTARTS, FAILURES, ABORTS, HEALS = COUNTS = ("restarts", "failures", "aborts", "heals")


def say(level: int, text: str, prefix: str = "pylxcfs: ") -> None:
    """Write one line to stderr, for the journal with its priority."""
    priority = f"<{level}>" if sdnotify.stderr_is_journal(os.environ) else ""
    with contextlib.suppress(OSError):  # it has no reader, and there is no other place
        os.write(2, f"{priority}{prefix}{text}\n".encode(errors="surrogateescape"))


def replace_file(path: str, content: bytes) -> None:
    """Write a file as a whole or not at all. Raise OSError."""
    beside = f"{path}.new"
    number = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        with open(number, "wb", buffering=0) as file:
            os.fchmod(number, 0o644)  # whatever the umask
            file.write(content)
        os.replace(beside, path)
    except OSError:
        os.unlink(beside)
        raise


class Report:
    """The keeper's state, as others see it."""

    def __init__(self, runtime_dir: str, mountpoint: str, notifier: sdnotify.Notifier) -> None:
        self._path = f"{runtime_dir}/status.json"
        self._mountpoint = mountpoint
        self._notifier = notifier
        self._said_error = False
        self.state = ""
        self._text = ""
        self._server: int | None = None
        self._resources: str | None = None
        self._since = 0
        self._counts = dict.fromkeys(COUNTS, 0)

    def change(self, state: str, text: str, *lines: str) -> None:
        """Enter a state; `lines` go to systemd with it."""
        if state != self.state:
            self._since = int(time.time())
        self.state, self._text = state, text
        self._notifier.send(*lines, f"STATUS={text}")
        self._write()

    def server(self, pid: int | None) -> None:
        """Say which server runs."""
        self._server = pid
        self._write()

    def resources(self, path: str | None) -> None:
        """Say where the resources socket is."""
        self._resources = path
        self._write()

    def count(self, what: str) -> None:
        """Add one to a count."""
        self._counts[what] += 1
        self._write()

    def remove(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def _write(self) -> None:
        content = {
            "state": self.state,
            "text": self._text,
            "keeper": os.getpid(),
            "server": self._server,
            "mountpoint": self._mountpoint,
            "resources": self._resources,
            "since": self._since,
            "version": __version__,
            "counts": self._counts,
        }
        try:
            replace_file(self._path, json.dumps(content).encode() + b"\n")
        except OSError as error:
            if not self._said_error:
                self._said_error = True
                say(WARNING, f"{self._path} cannot be written: {error.strerror}")
