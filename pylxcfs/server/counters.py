"""What a server has done since it began, for whoever asks at RUNTIME_DIR/counters.

The hot paths count in plain integers (fuse/connection.py, tree/contents.py). Nothing is written
while nobody asks: each connection to the socket gets the numbers of that moment as one JSON object,
and is closed. Only root may connect. A client that does not read is left after a second.

    version, pid, began_s          of this server; CLOCK_REALTIME
    virtual                        false while SIGUSR2 shows the host to all
    problems                       by option that is on and does not work here: the reason
    requests                       by mount ("own", "caller") and opcode
    files                          by file: renderings, and the nanoseconds they took
    fallbacks                      the host's file in place of the container's, by reason:
                                   error (a bug), unavailable (the kernel's file cannot be read),
                                   timeout (--request-timeout), unknown (whose reader it is)
    containers                     [pid namespace, cgroup namespace or 0, renderings]
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import trio

from pylxcfs import __version__
from pylxcfs.fuse import wire
from pylxcfs.server.server import Server
from pylxcfs.tree.nodes import FILES, SYSFS
from pylxcfs.views import VIEWS

_log = logging.getLogger(__name__)

SOCKET: Final = "counters"

#: Seconds that a client has to read, and until the next try after an error.
_PATIENCE_S: Final = 1.0
#: Containers in one piece: the encoder of json holds the interpreter, and so readers, for as long.
_AT_ONCE: Final = 50

#: Places of the guard at which the host's file is shown if something fails.
_SHOWING: Final = ("proc/", "sys/", "request ")
#: The files of sysfs count as one.
_SYSFS_NAME: Final = "sys/devices/system"


async def publish(server: Server) -> None:
    """Answer one client after the other, for ever."""
    began_s = time.time()
    try:
        listener = _listen(server.settings.runtime_dir)
    except OSError as error:
        _log.warning("no counters for pylxcfs status and top: %s", error)
        return
    with listener:
        while True:
            try:
                connection, _ = await listener.accept()
            except OSError:
                await trio.sleep(_PATIENCE_S)
                continue
            with connection, trio.move_on_after(_PATIENCE_S), contextlib.suppress(OSError):
                texts: list[Iterator[bytes]] = []
                server.guard.attempt("counters", lambda: texts.append(_pieces(server, began_s)))  # noqa: B023
                for piece in texts[0] if texts else ():
                    await _send(connection, piece)


def _listen(directory: str) -> trio.socket.SocketType:
    """Make the socket, in the place of the one of a server before."""
    # The path of a socket is at most 107 bytes long; that of a directory may be longer.
    number = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path = f"/proc/self/fd/{number}/{SOCKET}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        listener.bind(path)
        os.chmod(path, 0o600)  # nobody can connect before it listens
        listener.listen(16)
    except OSError:
        listener.close()
        raise
    finally:
        os.close(number)
    return trio.socket.from_stdlib_socket(listener)


async def _send(connection: trio.socket.SocketType, piece: bytes) -> None:
    while piece:
        piece = piece[await connection.send(piece) :]


def _pieces(server: Server, began_s: float) -> Iterator[bytes]:
    """Return the object in pieces, each made when the one before it was sent."""
    known = server.computation.registry.containers()
    containers = [(*identity, container.renderings) for identity, container in known]
    head = json.dumps(totals(server, began_s)).encode()

    def pieces() -> Iterator[bytes]:
        yield head[:-1] + b', "containers": ['
        for start in range(0, len(containers), _AT_ONCE):
            text = json.dumps(containers[start : start + _AT_ONCE])[1:-1]
            yield (b", " if start else b"") + text.encode()
        yield b"]}\n"

    return pieces()


def totals(server: Server, began_s: float) -> dict[str, Any]:
    """Return everything but the containers."""
    guard, contents = server.guard, server.computation.contents
    counts = contents.counts
    connections = (server.own_connection, server.caller_connection)
    names = {index: view.path for index, view in enumerate(VIEWS)} | {SYSFS - FILES: _SYSFS_NAME}
    return {
        "version": __version__,
        "pid": os.getpid(),
        "began_s": began_s,
        "virtual": contents.virtual,
        "problems": server.computation.problems,
        "requests": {one.name: _by_name(one.counts) for one in connections},
        "files": {
            name: [counts.renderings[index], counts.spent_ns[index]]
            for index, name in names.items()
            if counts.renderings[index]
        },
        "fallbacks": {
            "error": _shown(guard.failures),
            "unavailable": _shown(guard.unavailable),
            "timeout": sum(one.timeouts for one in connections),
            "unknown": counts.unknown,
        },
    }


def _by_name(requests: list[int]) -> dict[str, int]:
    return {
        wire.NAMES.get(opcode, f"opcode_{opcode}"): count
        for opcode, count in enumerate(requests)
        if count
    }


def _shown(places: Mapping[str, int]) -> int:
    return sum(count for place, count in list(places.items()) if place.startswith(_SHOWING))
