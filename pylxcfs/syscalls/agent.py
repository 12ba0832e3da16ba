"""The agent: takes listeners from runtimes, and answers the calls of each in a thread of its own.

A listener is a container's, or that of one `exec`. A thread that hangs (in the container's memory,
say) holds up that container alone. Listeners and connections of LXC are given to the keeper
(keeper/listeners.py), which holds them while there is no agent, and gives them to the next one:

    agent -> keeper   "oci" or "lxc", with the descriptor: hold it     keeper -> agent   the same,
                      "end NUMBER": drop it                            with " NUMBER LAST" behind it

NUMBER is the keeper's. LAST is the id of the last call that an earlier agent was handed; it is in
the memory that both share, at 8 bytes a number.
"""

from __future__ import annotations

import array
import json
import logging
import mmap
import os
import select
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any, Final

from pylxcfs.guard import Guard
from pylxcfs.syscalls import lxc as proxy
from pylxcfs.syscalls.answers import Answers
from pylxcfs.syscalls.notify import PASS, Listener
from pylxcfs.syscalls.values import Values

_log = logging.getLogger(__name__)

#: Ids after the last one known at which a call is looked for that an earlier agent was handed.
_TRIES: Final = 4096
#: Bytes of a runtime's message, and seconds in which it has to come.
_MOST_STATE: Final = 1 << 20
_STATE_S: Final = 5.0
_MOST_FDS: Final = 16
_PACKET: Final = 4096
#: Seconds between two looks for containers that have ended.
_REAP_S: Final = 1.0
_LAST: Final = struct.Struct("=Q")


class Agent:
    """The listeners of one host. `keeper` is the socket to the process that holds them."""

    def __init__(
        self,
        values: Values,
        guard: Guard,
        *,
        oci: socket.socket,
        lxc: socket.socket,
        keeper: socket.socket,
        shared: mmap.mmap,
    ) -> None:
        self._values = values
        self._guard = guard
        self._oci, self._lxc, self._keeper = oci, lxc, keeper
        self._shared = shared

    def run(self) -> None:
        """Serve until the keeper closes its socket."""
        self._values.start()
        poller = select.poll()
        for one in (self._oci, self._lxc, self._keeper):
            poller.register(one, select.POLLIN)
        while True:
            ready = {number for number, _ in poller.poll(_REAP_S * 1000)}
            if self._keeper.fileno() in ready and not self._from_keeper():
                return
            if self._oci.fileno() in ready:
                self._accept(self._oci, self._receive_state)
            if self._lxc.fileno() in ready:
                self._accept(self._lxc, lambda one: self._hold("lxc", one.detach()))
            self._guard.attempt("reap", self._values.reap)

    def _accept(self, listener: socket.socket, work: Callable[[socket.socket], None]) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        name = "connection"
        threading.Thread(
            target=self._guard.attempt, args=(name, lambda: work(connection)), daemon=True
        ).start()

    def _receive_state(self, connection: socket.socket) -> None:
        """Take the listener that a runtime sends with its state (OCI containerProcessState)."""
        with connection:
            connection.settimeout(_STATE_S)
            found = receive_state(connection)
        if found is not None:
            self._hold("oci", found)

    def _hold(self, kind: str, number: int) -> None:
        """Give a descriptor to the keeper, which sends it back with its number."""
        try:
            socket.send_fds(self._keeper, [kind.encode()], [number])
        finally:
            os.close(number)

    def _from_keeper(self) -> bool:
        message, numbers, _, _ = socket.recv_fds(self._keeper, 64, 1)
        if not message:
            return False
        kind, number, last = message.decode().split()
        slot = int(number)
        work = self._serve if kind == "oci" else self._serve_lxc
        threading.Thread(
            target=self._guard.attempt,
            args=(kind, lambda: work(slot, numbers[0], int(last))),
            name=f"{kind} {number}",
            daemon=True,
        ).start()
        return True

    def _serve(self, slot: int, number: int, last: int) -> None:
        """Answer the calls of one listener."""
        try:
            listener = Listener(number)
            if last:
                free_stuck(listener, last)
            answers = Answers(self._values)
            while (call := listener.receive()) is not None:
                _LAST.pack_into(self._shared, slot * _LAST.size, call.ident)
                answers.answer(listener, call)
        finally:
            os.close(number)
            self._keeper.send(b"end %d" % slot)

    def _serve_lxc(self, slot: int, number: int, last: int) -> None:
        try:
            with socket.socket(fileno=number) as connection:
                proxy.serve(connection, Answers(self._values))
        finally:
            self._keeper.send(b"end %d" % slot)


def free_stuck(listener: Listener, last: int) -> bool:
    """Let the kernel answer the call that an agent was handed before it ended.

    Ids are sequential, and the one that it was handed comes soon after the last one known. A call
    that was not handed out yet is left alone (EINPROGRESS).
    """
    return any(listener.send((last + more) & ((1 << 64) - 1), PASS) for more in range(_TRIES))


def receive_state(connection: socket.socket) -> int | None:
    """Return the listener in a runtime's message; None for a connection without one.

    The message is over when its JSON is: runc 1.1 keeps its end of the connection open, and waits
    for the container, which waits for an answer.
    """
    data, numbers = b"", array.array("i")
    try:
        while len(data) < _MOST_STATE:
            part, fds, _, _ = socket.recv_fds(connection, 65536, _MOST_FDS)
            numbers.extend(fds)
            data += part
            try:
                state = json.loads(data)
            except ValueError:
                if not part:
                    return None
                continue
            wanted = position(state)
            if wanted is None or wanted >= len(numbers):
                _log.warning("a runtime's message has no seccomp listener")
                return None
            return numbers.pop(wanted)
        return None
    except (OSError, RecursionError) as error:
        _log.warning("a runtime's message was not understood: %s", error)
        return None
    finally:
        for number in numbers:
            os.close(number)


def position(state: Any) -> int | None:  # noqa: ANN401  whatever a runtime sends
    """Return which of the descriptors is the listener (`fds` of containerProcessState)."""
    names = state.get("fds") if isinstance(state, dict) else None
    if not isinstance(names, list) or "seccompFd" not in names:
        return None
    return names.index("seccompFd")
