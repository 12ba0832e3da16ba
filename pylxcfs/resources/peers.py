"""The process at the other end of a unix socket: SO_PEERCRED, SO_PEERPIDFD.

The kernel notes the process that called connect(2), and translates its pid into the pid namespace
of the process that calls getsockopt(2). A pidfd tells whether that pid is still the same process.
Linux before 6.5 gives none (ENOPROTOOPT); there it is opened by pid, right after accept(2). Linux
6.5 to 6.15 gives none of a process that was reaped (EINVAL, ESRCH): its pid may be another's, so
there is no peer then.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
from dataclasses import dataclass
from typing import Final

from pylxcfs.sources.identity import pidns_of
from pylxcfs.sources.kept import Descriptor
from pylxcfs.sources.registry import has_ended

#: asm-generic/socket.h; struct ucred of linux/socket.h.
_SO_PEERPIDFD: Final = 77
_UCRED: Final = struct.Struct("=iII")


@dataclass(frozen=True, slots=True)
class Peer:
    """The process that connected."""

    #: Here; 0 if this pid namespace does not see it.
    pid: int
    uid: int
    #: Its pid namespace; 0 if that cannot be read.
    pidns: int
    pidfd: Descriptor | None

    @classmethod
    def of(cls, connection: socket.socket) -> Peer:
        """Return the peer of a connection that was just accepted. Nothing is raised."""
        try:
            text = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        except OSError:
            return cls(0, -1, 0, None)
        pid, uid, _ = _UCRED.unpack(text)
        pidfd = _pidfd_of(connection, pid) if pid > 0 else None
        pidns = pidns_of(pid) if pidfd is not None else 0
        return cls(pid, uid, pidns, pidfd)

    @property
    def lives(self) -> bool:
        """Whether what was read by its pid was its own."""
        return self.pidfd is not None and not has_ended(self.pidfd)


def is_closed(connection: socket.socket) -> bool:
    """Return whether the peer has closed both ways, so that it takes no answer.

    Bytes that it has sent before may wait all the same.
    """
    poll = select.poll()
    poll.register(connection, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def _pidfd_of(connection: socket.socket, pid: int) -> Descriptor | None:
    """Return a pidfd of the peer; None if it has ended."""
    try:
        return Descriptor(connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD))
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            return None
    with contextlib.suppress(OSError):
        return Descriptor(os.pidfd_open(pid))
    return None
