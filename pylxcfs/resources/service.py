"""The service: connections on a unix socket, each answered for the process that made it.

A fair queue: the service works for one connection of each container at a time, so a thousand of
them delay the others as one does. A client has a few seconds for a request and to receive its
answer. The bytes are in protocol.py, the client's process in peers.py. The listening socket is made
elsewhere (keeper/resources.py).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Final, TypeVar

import trio

from pylxcfs.errors import Gone, PylxcfsError
from pylxcfs.guard import Guard
from pylxcfs.resources import openapi
from pylxcfs.resources.model import Devices, Resources
from pylxcfs.resources.peers import Peer, is_closed
from pylxcfs.resources.protocol import MOST_BYTES, Answer, Conversation, HttpError, Request, State
from pylxcfs.resources.query import Query
from pylxcfs.resources.watch import Change, Watched
from pylxcfs.sources.identity import FairKey, Identity, cgroupns_of, fair_key
from pylxcfs.sources.kept import Descriptor
from pylxcfs.sources.registry import has_ended

_log = logging.getLogger(__name__)

_T = TypeVar("_T")
_Ask = Callable[[int], Resources | Devices]

#: Seconds for a request, from the connection or the answer before it.
REQUEST_S: Final = 10.0
#: Seconds in which a client has to take what was sent.
TAKE_S: Final = 5.0
#: Connections with one key (fair_key), mostly of a container, and streams of events among them.
MOST_EACH: Final = 512
MOST_STREAMS: Final = 16
#: All connections; each has a descriptor and a pidfd. Containers have half of the descriptors.
MOST: Final = 8192
_FDS_EACH: Final = 2
#: Connections that are accepted before the others are served.
_AT_ONCE: Final = 16
#: Seconds for that. Those that were closed already cost little, and many may wait.
_DRAIN_S: Final = 0.005
#: Seconds between two comments in a stream of events, and the least between two events.
COMMENT_S: Final = 15.0
_APART_S: Final = 0.05
_PATIENCE_S: Final = 0.05
#: Bytes that are received after a request that was refused.
_MOST_DRAINED: Final = 8 * MOST_BYTES

_NOT_SEEN: Final = Answer.error(
    HTTPStatus.FORBIDDEN,
    "the process that connected cannot be seen from the service",
    "run the service in the pid namespace of the host",
)
_ENDED: Final = Answer.error(
    HTTPStatus.GONE,
    "the process that connected has ended",
    "connect from the process that sends the request",
)
_NO_PROCESS: Final = Answer.error(
    HTTPStatus.NOT_FOUND,
    "no such process in the pid namespace of the client",
    "give a number as the client's ps shows it",
)
_UNREADABLE: Final = Answer.error(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "the cgroup cannot be read now",
    "try again; the log of the service says more with --log-level debug",
)
_BUG: Final = Answer.error(
    HTTPStatus.INTERNAL_SERVER_ERROR, "a bug of pylxcfs", "see the log of the service"
)

#: PID_MAX_LIMIT (include/linux/threads.h).
_MOST_PID: Final = 1 << 22


def _nothing() -> None:
    return None


def _read(connection: trio.socket.SocketType) -> bytes:
    """Receive from a connection that is readable, without another turn of the loop."""
    return os.read(connection.fileno(), MOST_BYTES)


@dataclass
class _Container:
    """What is open for one container, or another key."""

    #: Held while the service works for one of its connections.
    lock: trio.Lock = field(default_factory=trio.Lock)
    #: Its connections, each with the time of its last bytes; the longest idle one is the first.
    connections: dict[trio.CancelScope, float] = field(default_factory=dict)
    streams: int = 0

    @property
    def idle_since(self) -> float:
        """When its longest idle connection was last used."""
        return next(iter(self.connections.values()))

    def note_use(self, connection: trio.CancelScope) -> None:
        """Note that bytes have come on a connection."""
        if self.connections.pop(connection, None) is not None:
            self.connections[connection] = trio.current_time()


class Service:
    """Answers on `listener`, which listens already.

    `request_s`, `take_s`, `most_each`, `most`: see the constants.
    """

    def __init__(
        self,
        query: Query,
        listener: socket.socket,
        guard: Guard,
        *,
        request_s: float = REQUEST_S,
        take_s: float = TAKE_S,
        most_each: int = MOST_EACH,
        most: int = MOST,
    ) -> None:
        self._request_s, self._take_s, self._most_each = request_s, take_s, most_each
        self._query = query
        self._guard = guard
        self._listener = listener
        listener.setblocking(False)
        self._pidns = query.registry.host_identity.pidns
        self._cgroupns = cgroupns_of(os.getpid())
        self._containers: dict[FairKey, _Container] = {}
        self._connections = 0  # of all containers
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = max(1, min(most, soft // 3 // _FDS_EACH))
        #: Replaced after each write to a limit that somebody watches.
        self._written = trio.Event()
        self._writes = 0

    async def run(self) -> None:
        """Serve for ever."""
        self._query.registry.start()
        if self._query.sampler is not None:
            self._query.sampler.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._reap)
            if self._query.hierarchies.writes.fileno() >= 0:
                nursery.start_soon(self._note_writes)
            while True:
                await trio.lowlevel.wait_readable(self._listener)
                if not self._accept(nursery):
                    await trio.sleep(_PATIENCE_S)

    def _accept(self, nursery: trio.Nursery) -> bool:
        """Take some of the connections that wait; return False where none can be had now."""
        until, taken = trio.current_time() + _DRAIN_S, 0
        while taken < _AT_ONCE and trio.current_time() < until:
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return True
            except OSError as error:
                self._guard.warn("accept", "no connection can be taken: %s", error)
                return False
            if is_closed(connection):
                connection.close()
                continue
            taken += 1
            peer = Peer.of(connection)
            key = fair_key(peer.pid, peer.uid, self._pidns)
            container = self._containers.get(key) or _Container()
            if len(container.connections) >= self._most_each:
                connection.close()
                self._guard.warn("limit", "too many connections; some are closed at once")
                continue
            if self._connections >= self._most:
                self._close_one()
            self._containers[key] = container
            scope = trio.CancelScope()
            container.connections[scope] = trio.current_time()
            self._connections += 1
            connection.setblocking(False)
            ours = trio.socket.from_stdlib_socket(connection)
            nursery.start_soon(self._serve, ours, peer, key, container, scope)
        return True

    def _close_one(self) -> None:
        """Close the longest idle connection of the container with the most connections."""
        key, container = max(
            self._containers.items(),
            key=lambda item: (len(item[1].connections), -item[1].idle_since),
        )
        scope = next(iter(container.connections))
        scope.cancel()
        self._drop(key, container, scope)
        self._guard.warn(
            "limit", "too many connections; idle ones of the container with the most are closed"
        )

    def _drop(self, key: FairKey, container: _Container, scope: trio.CancelScope) -> None:
        """Count a connection no more."""
        if container.connections.pop(scope, None) is None:
            return
        self._connections -= 1
        if not container.connections:
            self._containers.pop(key, None)

    async def _serve(
        self,
        connection: trio.socket.SocketType,
        peer: Peer,
        key: FairKey,
        container: _Container,
        scope: trio.CancelScope,
    ) -> None:
        try:
            with (
                scope,
                connection,
                self._guard.attempting("connection"),
                contextlib.suppress(OSError),
            ):
                await self._talk(connection, peer, container, partial(container.note_use, scope))
        finally:
            self._drop(key, container, scope)

    async def _talk(
        self,
        connection: trio.socket.SocketType,
        peer: Peer,
        container: _Container,
        note_use: Callable[[], None],
    ) -> None:
        talk = Conversation(self._request_s)
        until = trio.current_time() + self._request_s
        waits = True
        while talk.state is not State.CLOSED:
            if waits:
                with trio.move_on_at(until) as patience:
                    await trio.lowlevel.wait_readable(connection.fileno())
                if patience.cancelled_caught:
                    return  # it was silent, or slow
            data, request = b"", None
            async with container.lock:
                if waits:
                    talk.receive(_read(connection))
                    note_use()
                try:
                    request = talk.request()
                except HttpError as refused:
                    data = talk.refuse(refused)
                if request is not None and request.what != "events":
                    data = talk.answer(await self._answer(request, peer))
            if request is not None and request.what == "events":
                await self._stream(connection, talk, peer, container)
                return
            waits = not data
            if data:
                await self._send(connection, data)
                until = trio.current_time() + self._request_s
        if request is None:  # it was refused, or the client has closed its end
            await self._drain(connection, container)

    async def _drain(self, connection: trio.socket.SocketType, container: _Container) -> None:
        """Take some more bytes, so that a client reads the last answer and then the end.

        It reads ECONNRESET where a connection is closed with bytes in it (unix_release_sock).
        """
        connection.shutdown(socket.SHUT_WR)
        left = _MOST_DRAINED
        with trio.move_on_after(self._take_s):
            while left > 0:
                await trio.lowlevel.wait_readable(connection.fileno())
                async with container.lock:
                    data = _read(connection)
                left = left - len(data) if data else 0

    async def _prepare(self, peer: Peer) -> None:
        """Find the container of a peer, in another thread where that may take long."""
        if peer.pidns not in (0, self._pidns) and not self._is_known(peer):
            work = partial(self._guard.attempt, "find", partial(self._find, peer.pid))
            await trio.to_thread.run_sync(work)

    def _find(self, pid: int) -> None:
        container, _ = self._query.find(pid)
        container.paths()  # where its cgroup namespace begins is asked for in it

    def _is_known(self, peer: Peer) -> bool:
        registry = self._query.registry
        if not registry.knows(Identity(peer.pidns, 0)):
            return False
        identity = registry.identify(peer.pid)  # no search, as its pid namespace is known
        return identity is None or registry.knows(identity)

    async def _answer(self, request: Request, peer: Peer) -> Answer:
        """Return the answer to a request. Nothing is raised."""
        if request.what == "openapi":
            return openapi.ANSWER
        if not peer.pid:
            return _NOT_SEEN
        ask = self._query.devices if request.what == "devices" else self._query.of
        if request.pid is not None:
            if request.pid > _MOST_PID:
                return _NO_PROCESS
            search = partial(self._search, request.pid, peer)
            found = await trio.to_thread.run_sync(self._guard.call, "find", search, _nothing)
            if found is None:
                return _NO_PROCESS if peer.lives else _ENDED
            work = partial(self._of_process, ask, *found, peer)
        else:
            await self._prepare(peer)
            work = partial(self._of_self, ask, peer)
        return self._read(peer, work)

    def _read(self, peer: Peer, read: Callable[[], _T]) -> _T | Answer:
        """Return what is read by a peer's pid, or an error. Nothing is raised.

        Everything about a peer is read here: its pid was its own only if it lives after the read.
        """

        def attempt() -> _T | Answer:
            try:
                return read()
            except PylxcfsError as error:  # Gone, too: it ends just now, or its cgroup
                _log.debug("process %d: %s", peer.pid, error)
                return _UNREADABLE

        found = self._guard.call("request", attempt, lambda: _BUG)
        self._note()
        return found if peer.lives else _ENDED

    def _of_self(self, ask: _Ask, peer: Peer) -> Answer:
        return Answer.of(self._document(ask(peer.pid), peer))

    def _of_process(self, ask: _Ask, pid: int, pidfd: Descriptor, peer: Peer) -> Answer:
        try:
            answer = Answer.of(self._document(ask(pid), peer))
        except Gone:
            return _NO_PROCESS
        return _NO_PROCESS if has_ended(pidfd) else answer

    def _search(self, number: int, peer: Peer) -> tuple[int, Descriptor] | None:
        """Return a process by its number for the peer, found as for `_prepare`.

        None if there is none. On kernels before 6.11 a process enters the pid namespace for that,
        so this is for another thread.
        """
        try:
            pid = self._pid_of(number, peer)
            pidfd = Descriptor(os.pidfd_open(pid))
            # Only now is the number not another's.
            if self._pid_of(number, peer) != pid:
                return None
        except (PylxcfsError, OSError):
            return None
        with contextlib.suppress(PylxcfsError):  # it shows again when it is read
            self._find(pid)
        return pid, pidfd

    def _pid_of(self, number: int, peer: Peer) -> int:
        if peer.pidns == self._pidns:
            return number
        return self._query.finder.process(peer.pid, number)

    def _document(self, found: Resources | Devices, peer: Peer) -> dict[str, object]:
        # Paths of the host's cgroups are not for containers. A namespace that cannot be read (the
        # main thread has ended) is another one.
        shares = cgroupns_of(peer.pid) == self._cgroupns
        if isinstance(found, Resources) and not shares:
            paths = dict.fromkeys(found.cgroup.paths, "/")
            found = found._replace(cgroup=found.cgroup._replace(paths=paths))
        return found.document(with_paths=shares and peer.pidns == self._pidns)

    async def _stream(
        self,
        connection: trio.socket.SocketType,
        talk: Conversation,
        peer: Peer,
        container: _Container,
    ) -> None:
        if not peer.pid:
            await self._send(connection, talk.answer(_NOT_SEEN, last=True))
            return
        if container.streams >= MOST_STREAMS:
            busy = Answer.error(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"this container has {MOST_STREAMS} streams of events",
                "close one of them",
            )
            await self._send(connection, talk.answer(busy, last=True))
            return
        container.streams += 1
        try:
            async with container.lock:
                await self._prepare(peer)
                begun = self._read(peer, partial(self._begin, peer))
            if isinstance(begun, Answer):
                await self._send(connection, talk.answer(begun, last=True))
                return
            watched, event = begun
            await self._send(connection, talk.begin_events())
            await self._send(connection, talk.event("resources", event))
            if talk.state is not State.EVENTS:
                return  # HEAD
            async with trio.open_nursery() as nursery:
                # Its client closes the connection, or sends more than its request; or it ends.
                assert peer.pidfd is not None, "it lived"
                for number in (connection.fileno(), peer.pidfd.number):
                    nursery.start_soon(_cancel_when_readable, number, nursery.cancel_scope)
                with self._guard.attempting("connection"), contextlib.suppress(OSError):
                    await self._follow(connection, talk, peer, container, watched)
                nursery.cancel_scope.cancel()
        finally:
            container.streams -= 1

    async def _follow(
        self,
        connection: trio.socket.SocketType,
        talk: Conversation,
        peer: Peer,
        container: _Container,
        watched: Watched,
    ) -> None:
        """Send an event after each change of a limit, until its cgroup has ended."""
        while True:
            await trio.sleep(_APART_S)
            with trio.move_on_after(COMMENT_S) as quiet:
                while not watched.take_writes():
                    self._note()  # what was taken may be of limits that other streams wait for
                    await self._written.wait()
            data = talk.comment() if quiet.cancelled_caught else b""
            if not data:
                async with container.lock:
                    event = self._read(peer, partial(self._next, watched, peer))
                if isinstance(event, Answer):
                    return  # the process or its cgroup has ended, or that cannot be read
                data = talk.event("resources", event) if event is not None else b""
            await self._send(connection, data)

    def _begin(self, peer: Peer) -> tuple[Watched, bytes]:
        watched = Watched(self._query, peer.pid)
        return watched, self._event(Change(watched.resources, ()), peer)

    def _next(self, watched: Watched, peer: Peer) -> bytes | None:
        change = watched.look()
        return self._event(change, peer) if change is not None else None

    def _event(self, change: Change, peer: Peer) -> bytes:
        document = {"changed": change.changed, **self._document(change.resources, peer)}
        return json.dumps(document).encode()

    async def _send(self, connection: trio.socket.SocketType, data: bytes) -> None:
        """Send all; raise TimeoutError if the client does not take it."""
        view = memoryview(data)
        with trio.move_on_after(self._take_s) as patience:
            while view:
                view = view[await connection.send(view) :]
        if patience.cancelled_caught:
            raise TimeoutError("the client does not take its answer")

    async def _note_writes(self) -> None:
        number = self._query.hierarchies.writes.fileno()
        while True:
            await trio.lowlevel.wait_readable(number)
            self._query.hierarchies.writes.look()
            self._note()

    def _note(self) -> None:
        """Wake the streams if limits were written: an answer may have taken note of that."""
        count = self._query.hierarchies.writes.count
        if count != self._writes:
            self._writes = count
            self._written.set()
            self._written = trio.Event()

    async def _reap(self) -> None:
        registry = self._query.registry
        while True:
            await trio.lowlevel.wait_readable(registry.fileno())
            if not self._guard.attempt("reap", registry.reap):
                await trio.sleep(1.0)


async def _cancel_when_readable(number: int, scope: trio.CancelScope) -> None:
    await trio.lowlevel.wait_readable(number)
    scope.cancel()
