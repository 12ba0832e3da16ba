"""The express lane: a thread that reads requests from /dev/fuse and answers the hot ones itself.

What every reader of a file needs (names, attributes, OPEN, READ, RELEASE) costs one read(2), a
table look-up and one write(2) here, a third of what the way through libfuse, pyfuse3 and trio
costs. Everything else goes on to pyfuse3 through a socket pair; `session.py` brings its answers
back. One request is served at a time; one that does not come back (a file of the kernel's that
blocks) is answered by the watchdog and its thread replaced, so it holds up nobody for longer.

Knows messages (wire.py) and the filesystem; does not know processes, containers or views.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
from collections.abc import Callable
from typing import Final

from pylxcfs.fusefs import nodes, wire
from pylxcfs.fusefs.filesystem import NAME_VALID_NS, Filesystem
from pylxcfs.fusefs.guard import Guard
from pylxcfs.fusefs.nodes import CACHED, WATCHED, inode_number
from pylxcfs.fusefs.refusal import Refused
from pylxcfs.fusefs.turns import Turns
from pylxcfs.fusefs.wire import FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE, IN_HEADER, error_reply

#: Bounds a request; the INIT reply (session.py) tells the kernel a max_write that fits.
BUFFER: Final = 65536

_HEADER: Final = IN_HEADER.size

#: Errors of read(2) on /dev/fuse that end the connection: unmounted, aborted.
_ENDED: Final = (errno.ENODEV, errno.ECONNABORTED)

#: No request of the kernel's: what is done after one, when nobody waits.
_RENEW: Final = -1

# What the loop looks up at every request.
_OPEN: Final = wire.OPEN
_RELEASE: Final = wire.RELEASE
_READ: Final = wire.READ
_LOCKOWNER: Final = wire.READ_LOCKOWNER
_OPENED: Final = wire.OPEN_REPLY.pack
_DONE: Final = wire.OUT_HEADER.pack

#: A served request: unique, opcode, node id, and the message.
Request = tuple[int, int, int, bytes]


class Lane(threading.Thread):
    """One thread on the connection."""

    def __init__(
        self,
        filesystem: Filesystem,
        guard: Guard,
        device: int,
        others: socket.socket,
        stop: int | None,
        ended: Callable[[], None],
        turns: Turns | None = None,
    ) -> None:
        super().__init__(name="express", daemon=True)
        self._fs = filesystem
        self._guard = guard
        self._device = device
        self._others = others
        self._stop_fd = stop
        self._ended = ended
        self._turns = turns
        self._buffer = bytearray(BUFFER)
        #: `unique` of the request being served, 0 between requests.
        self.serving = 0
        #: Set when this server is about to end: what arrives now is the next server's.
        self.leaving = False
        #: Requests passed on to pyfuse3.
        self.passed = 0
        self._disowned = False
        #: Held to say who answers a request: this thread, or the watchdog.
        self._answering = threading.Lock()
        self._table: dict[int, Callable[[int, int, int, int, int], bytes | None]] = {
            wire.LOOKUP: self._lookup,
            wire.GETATTR: self._getattr,
            wire.READLINK: self._readlink,
            wire.OPEN: self._open,
            wire.READ: self._read,
            wire.RELEASE: self._release,
            wire.SETATTR: self._setattr,
            wire.WRITE: self._write,
            wire.POLL: self._poll,
            wire.FORGET: self._nothing,
            wire.BATCH_FORGET: self._nothing,
            wire.INTERRUPT: self._nothing,
            wire.FLUSH: self._not_needed,
            wire.ACCESS: self._not_needed,
            _RENEW: self._renew,
        }

    # -- the loop ------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until the connection ends, `stop` is readable, or the watchdog took over.

        What a monitoring agent does all day, to open and to close what it has read before, is
        answered first and outside of the guard: after a pause it is the length of the code, not
        of the work, that its reader waits for.
        """
        buffer = self._buffer
        buffers = [buffer]
        device = self._device
        unpack = wire.IN_HEADER_AND_WORD.unpack_from
        call = self._guard.call
        reopen, close = self._fs.reopens.open, self._fs.reopens.close
        text_of, read_in = self._fs.reopens.text, wire.READ_IN.unpack_from
        # Handles of which nobody has to know that they are closed, but who opened them in short.
        marks, plain = (WATCHED, 0) if self._fs.triggers is None else (CACHED | WATCHED, CACHED)
        table, read, write = self._table, os.readv, os.write
        wait = self._waiter()
        turns = self._turns
        unlooked = turns.interval if turns is not None else 0
        while True:
            try:
                if wait is not None and not wait():
                    return
                if turns is not None and turns.are_kept:
                    length = turns.next(buffer)
                    if not length:
                        unlooked = turns.interval
                        continue
                else:
                    length = read(device, buffers)
                    unlooked -= 1
                    if not unlooked and turns is not None and not turns.begin():
                        unlooked = turns.interval
            except OSError as error:
                if error.errno in _ENDED:
                    self._ended()
                    return
                if error.errno == errno.EAGAIN and wait is None:
                    os.set_blocking(device, True)  # whoever has changed that
                elif error.errno not in (errno.ENOENT, errno.EAGAIN):
                    raise
                continue  # the request was interrupted, or another server was faster

            if self.leaving:
                return  # unanswered, so it comes again: only kernels that resend get here
            opcode, unique, node, uid, pid, word = unpack(buffer)
            if opcode == _OPEN:
                handle = reopen(node, pid, word)
                if handle:
                    how = FOPEN_KEEP_CACHE if handle & CACHED else FOPEN_DIRECT_IO
                    try:
                        write(device, _OPENED(32, 0, unique, handle, how))
                    except OSError as error:
                        self._refused(error)
                    continue
            elif opcode == _RELEASE:
                if word & marks == plain:
                    try:
                        write(device, _DONE(16, 0, unique))
                    except OSError as error:
                        self._refused(error)
                    if not close(node, word):
                        continue
                    opcode = _RENEW
            elif opcode == _READ:
                # Most readers come back once to see that there is no more.
                text = text_of(word)
                if text:
                    _, offset, _, flags = read_in(buffer, _HEADER)
                    if offset >= len(text) and flags & _LOCKOWNER:
                        self._send(_DONE(16, 0, unique))
                        continue
            elif opcode not in table:
                self._pass_on(length, unique)
                continue
            self.serving = unique
            reply = call(
                "express", self._answer, self._fallback, opcode, unique, node, uid, pid, length
            )
            with self._answering:
                disowned = self._disowned
                self.serving = 0
            if disowned:
                self._undo(opcode, node, reply)
                return
            if reply is not None:
                self._send(reply)

    def _send(self, reply: bytes) -> None:
        try:
            os.write(self._device, reply)
        except OSError as error:
            self._refused(error)

    def _refused(self, error: OSError) -> None:
        # ENOENT: the reader was killed meanwhile, or it was answered already.
        if error.errno not in (errno.ENOENT, *_ENDED):
            self._guard.warn("answer", "an answer was refused: %s", error)

    def _undo(self, opcode: int, node: int, reply: bytes | None) -> None:
        """Close what was opened for an OPEN that has had another answer."""
        if opcode == _OPEN and reply is not None and len(reply) == wire.OPEN_REPLY.size:
            self._fs.release(node, wire.OPEN_REPLY.unpack(reply)[3])
            self._fs.reopens.clear()  # it may be long ago that its thread was looked at

    def _waiter(self) -> Callable[[], bool] | None:
        """Return what waits for a request and is false once `stop` is readable."""
        if self._stop_fd is None:
            return None
        stop = self._stop_fd
        poll = select.poll()
        poll.register(self._device, select.POLLIN)
        poll.register(stop, select.POLLIN)
        return lambda: all(fd != stop for fd, _ in poll.poll())

    def _pass_on(self, length: int, unique: int) -> None:
        try:
            self._others.send(memoryview(self._buffer)[:length], socket.MSG_DONTWAIT)
            self.passed += 1
        except OSError as error:
            # pyfuse3 does not keep up, or is ending: never wait for it here.
            self._guard.warn("pass on", "request not passed on: %s", error)
            with contextlib.suppress(OSError):  # it was given up, or the connection ended
                os.write(self._device, error_reply(unique, errno.EAGAIN))

    def _answer(
        self, opcode: int, unique: int, node: int, uid: int, pid: int, length: int
    ) -> bytes | None:
        try:
            return self._table[opcode](unique, node, uid, pid, length)
        except Refused as refused:
            return error_reply(unique, refused.errno)

    def _fallback(
        self, opcode: int, unique: int, node: int, uid: int, pid: int, length: int
    ) -> bytes | None:
        return fallback(self._fs, opcode, unique, node, bytes(self._buffer[:length]))

    def disown(self, unique: int) -> bool:
        """Take a request from this thread, which then ends; False if it has come back by now.

        Never both and never neither: a thread that was given up while it already served the next
        request would leave that one without an answer.
        """
        with self._answering:
            if self.serving != unique:
                return False
            self._disowned = True
            return True

    def current(self) -> Request | None:
        """Return the request being served, for the watchdog."""
        unique = self.serving
        if not unique:
            return None
        message = bytes(self._buffer[: wire.IN_HEADER.size + wire.READ_IN.size])
        header = IN_HEADER.unpack_from(message)
        return (unique, header[1], header[3], message) if header[2] == unique else None

    # -- the hot requests ----------------------------------------------------------------------

    def _lookup(self, unique: int, node: int, uid: int, pid: int, length: int) -> bytes:
        name = bytes(self._buffer[_HEADER : length - 1])
        child = self._fs.names.lookup(node, name, pid)
        mode, nlink, size, mtime_ns, valid_ns = self._fs.attributes(child, 0, pid)
        return wire.entry_reply(
            unique, child, inode_number(child), mode, nlink, size, mtime_ns, valid_ns, NAME_VALID_NS
        )

    def _getattr(self, unique: int, node: int, uid: int, pid: int, length: int) -> bytes:
        flags, handle = wire.GETATTR_IN.unpack_from(self._buffer, _HEADER)
        if not flags & wire.GETATTR_FH:
            handle = 0
        mode, nlink, size, mtime_ns, valid_ns = self._fs.attributes(node, handle, pid)
        return wire.attr_reply(unique, inode_number(node), mode, nlink, size, mtime_ns, valid_ns)

    def _readlink(self, unique: int, node: int, uid: int, pid: int, length: int) -> bytes:
        return wire.data_reply(unique, self._fs.names.readlink(node, pid))

    def _open(self, unique: int, node: int, uid: int, pid: int, length: int) -> bytes:
        (flags,) = wire.OPEN_IN.unpack_from(self._buffer, _HEADER)
        handle, open_flags = self._fs.open(node, flags, uid, pid)
        return wire.open_reply(unique, handle, open_flags)

    def _read(self, unique: int, node: int, uid: int, pid: int, length: int) -> bytes:
        handle, offset, size, flags = wire.READ_IN.unpack_from(self._buffer, _HEADER)
        read = self._fs.read if flags & wire.READ_LOCKOWNER else self._fs.fill
        return wire.data_reply(unique, read(node, handle, offset, size, pid))

    def _release(self, unique: int, node: int, uid: int, pid: int, length: int) -> bytes:
        (handle,) = wire.RELEASE_IN.unpack_from(self._buffer, _HEADER)
        self._fs.release(node, handle)
        return error_reply(unique, 0)

    def _setattr(self, unique: int, node: int, uid: int, pid: int, length: int) -> bytes:
        mode, nlink, size, mtime_ns, valid_ns = self._fs.truncate(node, pid)
        return wire.attr_reply(unique, inode_number(node), mode, nlink, size, mtime_ns, valid_ns)

    def _write(self, unique: int, node: int, uid: int, pid: int, length: int) -> bytes:
        handle, _, size = wire.WRITE_IN.unpack_from(self._buffer, _HEADER)
        start = _HEADER + wire.WRITE_IN.size
        self._fs.write(node, handle, bytes(self._buffer[start : start + size]), pid)
        return wire.WRITE_REPLY.pack(wire.WRITE_REPLY.size, 0, unique, size)

    def _poll(self, unique: int, node: int, uid: int, pid: int, length: int) -> bytes:
        handle, poller, flags = wire.POLL_IN.unpack_from(self._buffer, _HEADER)
        events = self._fs.poll(node, handle, poller, bool(flags & wire.POLL_SCHEDULE_NOTIFY))
        return wire.POLL_REPLY.pack(wire.POLL_REPLY.size, 0, unique, events)

    def _not_needed(self, unique: int, node: int, uid: int, pid: int, length: int) -> bytes:
        """Answer ENOSYS: the kernel does not ask again, and takes it as success."""
        return error_reply(unique, errno.ENOSYS)

    def _renew(self, unique: int, node: int, uid: int, pid: int, length: int) -> None:
        """Render what its reader, who has just closed it, will want anew next time."""
        self._fs.renderings.renew(node)

    def _nothing(self, unique: int, node: int, uid: int, pid: int, length: int) -> None:
        """These requests have no answer, and nothing here depends on them."""


def fallback(
    filesystem: Filesystem, opcode: int, unique: int, node: int, message: bytes
) -> bytes | None:
    """Answer a request that failed or did not come back; a READ gets the host's file."""
    try:
        if opcode == wire.READ:
            handle, offset, size, _ = wire.READ_IN.unpack_from(message, _HEADER)
            text = filesystem.instead(node, handle)
            return wire.data_reply(unique, text[offset : offset + size])
        if opcode == wire.OPEN:
            # A handle of nobody: its reads get the host's file.
            return wire.open_reply(unique, nodes.handle(0, 0, unique), wire.FOPEN_DIRECT_IO)
    except Refused as refused:
        return error_reply(unique, refused.errno)
    return error_reply(unique, errno.EIO)


__all__ = ["BUFFER", "Lane", "Request", "fallback"]
