"""Where metrics are served: an HTTP server on an address or on a unix socket.

Knows prometheus-client's WSGI application, and nothing of what it says (exposition.py). Scrapes
are answered in threads of this process, which is no server of files.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import socketserver
import stat
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from pylxcfs.errors import HostError

#: Seconds that a client has for its request.
_PATIENCE_S: Final = 10.0


def need_package() -> None:
    """Raise HostError if prometheus-client is not installed."""
    if importlib.util.find_spec("prometheus_client") is None:
        raise HostError(
            "metrics need the package prometheus-client, which is not installed",
            "install it beside pylxcfs: pip install 'pylxcfs[metrics]', or leave out"
            " --metrics-listen",
        )


class _Handler(WSGIRequestHandler):
    timeout = _PATIENCE_S

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: a scrape comes every few seconds."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, address: str) -> None:
        self._path = address if address.startswith("/") else None
        place: Any = self._path
        if self._path is not None:
            self.address_family = socket.AF_UNIX
        else:
            host, _, port = address.rpartition(":")
            if host.startswith("["):
                self.address_family = socket.AF_INET6
            place = host.strip("[]"), int(port)
        super().__init__(place, _Handler)

    def server_bind(self) -> None:
        """Bind, without asking for the name of the host as HTTPServer does."""
        if self._path is None:
            socketserver.TCPServer.server_bind(self)
        else:
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISSOCK(os.lstat(self._path).st_mode):
                    os.unlink(self._path)  # of an earlier process
            self.socket.bind(self._path)
            os.chmod(self._path, 0o600)  # nobody can connect before it listens
        self.server_name, self.server_port = "pylxcfs", 0
        self.setup_environ()

    def get_request(self) -> tuple[Any, Any]:
        """Return a connection; a client of a unix socket has no address."""
        connection, address = self.socket.accept()
        return connection, address or ("unix", 0)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is nobody's business."""


def serve(address: str, application: Any) -> WSGIServer:  # noqa: ANN401  WSGI's
    """Return a server that listens; its `serve_forever` answers. Raise OSError."""
    server = _Server(address)
    server.set_app(application)
    return server
