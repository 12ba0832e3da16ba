"""Listening unix sockets in the runtime directory. Standard library only."""

from __future__ import annotations

import contextlib
import os
import socket


def listen(directory: str, name: str, kind: int, backlog: int, mode: int) -> socket.socket:
    """Return a new socket with this mode, in the place of an old one. Raise OSError."""
    # Through /proc/self/fd, as a socket's own path may have 107 bytes only.
    number = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, kind)
    mask = os.umask(0o777 & ~mode)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=number)
        listener.bind(f"/proc/self/fd/{number}/{name}")
        listener.listen(backlog)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(mask)
        os.close(number)
    return listener
