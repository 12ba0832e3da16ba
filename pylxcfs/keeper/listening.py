"""Listening unix sockets in the runtime directory. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator


def listen(directory: str, name: str, kind: int, backlog: int, mode: int) -> socket.socket:
    """Return a new socket with this mode, in the place of an old one or an empty directory.

    Raise OSError.
    """
    listener = socket.socket(socket.AF_UNIX, kind)
    mask = os.umask(0o777 & ~mode)
    try:
        with _short(directory) as short:
            try:
                os.unlink(f"{short}/{name}")
            except FileNotFoundError:
                pass
            except IsADirectoryError:  # `docker run -v` makes one where there is no socket yet
                os.rmdir(f"{short}/{name}")
            listener.bind(f"{short}/{name}")
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        error.filename = os.path.join(directory, name)
        raise
    finally:
        os.umask(mask)
    return listener


def is_live(directory: str, name: str, kind: int) -> bool:
    """Tell whether a socket is there that takes connections. Raise OSError."""
    with _short(directory) as short, socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)  # EAGAIN: it listens, and its queue is full
        # ECONNREFUSED: left behind by a process that has ended, or no socket.
        return probe.connect_ex(f"{short}/{name}") not in (errno.ENOENT, errno.ECONNREFUSED)


@contextlib.contextmanager
def _short(directory: str) -> Iterator[str]:
    """Yield a short path of a directory, as that of a socket may have 107 bytes only."""
    number = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{number}"
    finally:
        os.close(number)
