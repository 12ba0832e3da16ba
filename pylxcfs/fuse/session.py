"""pyfuse3 and trio behind the caller mount: they answer what its loop passes on.

    /dev/fuse -> loop -> socket pair -> libfuse, pyfuse3 -> socket pair -> relay -> /dev/fuse

On its way back an answer gets numbers for st_ino that fit 32 bits: for pyfuse3 they are node ids.

INIT was answered by the keeper, once in the life of the mount; libfuse is told an INIT that offers
what was negotiated (init.py), and its answer goes nowhere.

pyfuse3 and trio are loaded last (`run`): a server that takes over answers readers before that.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Final

from pylxcfs.errors import Refused
from pylxcfs.fuse import init, wire
from pylxcfs.fuse.connection import Request
from pylxcfs.guard import Guard

if TYPE_CHECKING:
    import pyfuse3
    import trio

_log = logging.getLogger(__name__)

#: Bytes of requests that may wait for pyfuse3 (a short one counts for about 1 KiB): the default
#: holds some 200, and a crowd that lists directories would be told EAGAIN.
_WAITING: Final = 16 << 20
_SO_SNDBUFFORCE: Final = 32

#: Requests that pyfuse3 answers at once. Those on cgroups may block.
_MOST_TASKS: Final = 4096
#: Of them those with one key. More could fill the socket pair, and others would be refused.
_MOST_EACH: Final = 68

#: How long a server that ends waits for answers of pyfuse3.
_LEAVE_S: Final = 1.0


class Session:
    """The socket pair between the loop and libfuse."""

    def __init__(
        self, device: int, guard: Guard, inode_number: Callable[[int], int] | None = None
    ) -> None:
        """`inode_number`: from a node id to st_ino, where they are not the same."""
        self._device = device
        self._guard = guard
        self._inode_number = inode_number
        #: Opcodes and keys of requests that are not answered, by `unique`, and their number by key.
        self._unanswered: dict[int, tuple[int, Hashable]] = {}
        self._counts: Counter[Hashable] = Counter()
        self._counting = threading.Lock()
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._ours, self._theirs):
            with contextlib.suppress(OSError):  # without CAP_NET_ADMIN the default has to do
                end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _WAITING)
        self._ours.send(init.request_for_libfuse())
        threading.Thread(target=self._relay, name="relay", daemon=True).start()

    def send(self, request: Request, key: Hashable = None) -> None:
        """Pass a request on. Raise Refused where pyfuse3 does not keep up.

        Also where many with the same key are not answered; None is counted with none. A LOOKUP is
        refused with ENOMEM: after any other error the kernel drops the name for all callers, with
        what is mounted there (fuse_dentry_revalidate, fs/fuse/dir.c).
        """
        opcode, unique, node, pid, body = request
        length = wire.IN_HEADER.size + len(body)
        header = wire.IN_HEADER.pack(length, opcode, unique, node, 0, 0, pid, 0)
        refused = Refused(errno.ENOMEM if opcode == wire.LOOKUP else errno.EAGAIN)
        with self._counting:
            if key is not None and self._counts[key] >= _MOST_EACH:
                raise refused
            self._unanswered[unique] = opcode, key
            self._counts[key] += 1
        try:
            self._ours.send(header + body, socket.MSG_DONTWAIT)
        except OSError as error:
            self._forget(unique)
            self._guard.warn("pass on", "a request was not passed on: %s", error)
            raise refused from error

    def _forget(self, unique: int) -> None:
        """Count a request no more: it is answered, or was not passed on."""
        with self._counting:
            if unique in self._unanswered:
                _, key = self._unanswered.pop(unique)
                self._counts[key] -= 1
                if not self._counts[key]:
                    del self._counts[key]

    async def run(self, operations: pyfuse3.Operations, task_status: trio.TaskStatus[None]) -> None:
        """Answer until cancelled."""
        import pyfuse3

        pyfuse3.init(operations, f"/dev/fd/{self._theirs.fileno()}", set())
        task_status.started()
        try:
            await pyfuse3.main(max_tasks=_MOST_TASKS)
        finally:
            pyfuse3.close(unmount=False)

    def drain(self) -> None:
        """Wait for the answers to what was passed on; pyfuse3 has to go on meanwhile."""
        deadline = time.monotonic() + _LEAVE_S
        while self._unanswered and time.monotonic() < deadline:
            time.sleep(0.001)

    def _relay(self) -> None:
        """Bring the answers of pyfuse3 to the kernel; the first one is libfuse's to INIT."""
        self._ours.recv(1 << 20)
        while data := self._ours.recv(1 << 20):
            _, number, unique = wire.OUT_HEADER.unpack_from(data)
            opcode = self._unanswered.get(unique, (0, None))[0]
            if self._inode_number is not None and opcode in wire.ATTRIBUTES_AT and not number:
                data = wire.renumbered(opcode, data, self._inode_number)
            try:
                self._write(opcode, unique, data)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENODEV):
                    _log.warning("the kernel refused an answer of pyfuse3: %s", error)
            self._forget(unique)

    def _write(self, opcode: int, unique: int, data: bytes) -> None:
        """Answer; the request gets an error where the kernel refuses the answer, or it hangs."""
        try:
            os.write(self._device, data)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            _log.warning("the kernel refused an answer of pyfuse3 to request %d", opcode)
            os.write(self._device, wire.failure_reply(opcode, unique))
