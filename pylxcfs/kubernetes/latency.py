"""What the NRI plugin has done, for whoever asks at RUNTIME_DIR/nri-counters.

Nothing is written while nobody asks: each connection to the socket gets one JSON object and is
closed. Only root may connect.

    registered     whether a runtime has the plugin
    calls          by method: answers, and the seconds that they took
    slow           answers after SLOW_S
"""

from __future__ import annotations

import contextlib
import json
import os
import socketserver
import threading
from typing import Any, Final

SOCKET: Final = "nri-counters"
#: The runtime lets a plugin wait for 2 s, and drops it then. Each container waits for the answer.
SLOW_S: Final = 0.1
#: Seconds that a client has to read.
_PATIENCE_S: Final = 1.0
#: Instead of the names of methods that the plugin does not have.
_OTHERS: Final = "other"


class Latency:
    """Counts of one plugin; added to by one thread."""

    def __init__(self) -> None:
        self.registered = False
        self._calls: dict[str, tuple[int, float]] = {}
        self._slow = 0

    def add(self, method: str | None, took_s: float) -> None:
        """Count an answer; no method: one that the plugin does not have."""
        name = method or _OTHERS
        count, spent_s = self._calls.get(name, (0, 0.0))
        self._calls[name] = count + 1, spent_s + took_s
        self._slow += took_s > SLOW_S

    def document(self) -> dict[str, Any]:
        """Return the counts of this moment."""
        return {"registered": self.registered, "calls": {**self._calls}, "slow": self._slow}

    def publish(self, directory: str) -> None:
        """Answer clients in a thread, in the place of an earlier plugin. Raise OSError."""
        server = _Server(directory, self)
        threading.Thread(target=server.serve_forever, daemon=True, name="counters").start()


class _Server(socketserver.UnixStreamServer):
    def __init__(self, directory: str, latency: Latency) -> None:
        self.latency = latency
        # The path of a socket is at most 107 bytes long; that of a directory may be longer.
        number = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        path = f"/proc/self/fd/{number}/{SOCKET}"
        super().__init__(path, _Answer, bind_and_activate=False)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            self.server_bind()
            os.chmod(path, 0o600)  # nobody can connect before it listens
            self.server_activate()
        except OSError:
            self.server_close()
            raise
        finally:
            os.close(number)

    def handle_error(self, request: object, client_address: object) -> None:
        """Do nothing about a client that went away."""


class _Answer(socketserver.StreamRequestHandler):
    server: _Server
    timeout = _PATIENCE_S

    def handle(self) -> None:
        self.wfile.write(json.dumps(self.server.latency.document()).encode())
