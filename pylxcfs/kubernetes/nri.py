"""The NRI plugin: containers of chosen pods get their views from the runtime.

    the runtime calls       the plugin
    Configure               names the events that it wants
    Synchronize             queues all containers of chosen pods that run: they are attached
    CreateContainer         answers with mounts or a hook for a container of a chosen pod
    StateChange,            queues a container that has started: what mounts cannot cover is
      PostStartContainer    attached
    others                  answers that it does not have them

The answer never waits: attaching is done by a thread. A failure of ours is an answer without
adjustment, so no container fails by it. (github.com/containerd/nri pkg/api/api.proto; only fields
that are used are here.) How files are mounted is the Node's affair.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple, Protocol

from pylxcfs.errors import PylxcfsError
from pylxcfs.guard import Guard
from pylxcfs.kubernetes import ttrpc
from pylxcfs.kubernetes.latency import SLOW_S, Latency
from pylxcfs.kubernetes.protobuf import (
    Malformed,
    Message,
    flag,
    message,
    messages,
    number,
    table,
    text,
    texts,
)

_log = logging.getLogger(__name__)

SOCKET: Final = "/var/run/nri/nri.sock"
NAME: Final = "pylxcfs"
INDEX: Final = "50"
#: Label and annotation of a pod; the annotation wins.
KEY: Final = "pylxcfs.io/view"
VIEWS: Final = ("all", "proc", "cpu")
_ALL: Final = ("enabled", "true", "yes", "y", "on")
_OFF: Final = ("off", "disabled", "false", "no", "n", "none")
_WORDS: Final = {**dict.fromkeys(_ALL, "all"), **{view: view for view in VIEWS}}

_SERVICE: Final = "nri.pkg.api.v1alpha1.Runtime"
_CREATE, _POST_START = 4, 7
_EVENTS: Final = 1 << (_CREATE - 1) | 1 << (_POST_START - 1)
_RUNNING: Final = 3
#: Seconds until the next try to connect: the first, and the longest.
_AGAIN_S: Final = (0.2, 5.0)
_CALM_S: Final = 10.0
_CHUNK: Final = 1 << 16


@dataclass
class RegisterPlugin(Message):
    plugin_name: str = text(1)
    plugin_idx: str = text(2)


@dataclass
class Configure(Message):
    config: str = text(1)
    runtime_name: str = text(2)
    runtime_version: str = text(3)
    registration_timeout_ms: int = number(4)
    request_timeout_ms: int = number(5)


@dataclass
class Configured(Message):
    events: int = number(2)


@dataclass
class Pod(Message):
    id: str = text(1)
    name: str = text(2)
    uid: str = text(3)
    namespace: str = text(4)
    labels: dict[str, str] = table(5)
    annotations: dict[str, str] = table(6)


@dataclass
class Mount(Message):
    destination: str = text(1)
    type: str = text(2)
    source: str = text(3)
    options: list[str] = texts(4)


@dataclass
class Hook(Message):
    path: str = text(1)
    args: list[str] = texts(2)


@dataclass
class Hooks(Message):
    create_container: list[Hook] = messages(3, Hook)


@dataclass
class Container(Message):
    id: str = text(1)
    pod_sandbox_id: str = text(2)
    name: str = text(3)
    state: int = number(4)
    mounts: list[Mount] = messages(9, Mount)
    pid: int = number(12)


@dataclass
class Synchronize(Message):
    pods: list[Pod] = messages(1, Pod)
    containers: list[Container] = messages(2, Container)
    more: bool = flag(3)


@dataclass
class Synchronized(Message):
    more: bool = flag(2)


@dataclass
class CreateContainer(Message):
    pod: Pod = message(1, Pod)
    container: Container = message(2, Container)


@dataclass
class Adjustment(Message):
    mounts: list[Mount] = messages(3, Mount)
    hooks: Hooks = message(5, Hooks)


@dataclass
class Created(Message):
    adjust: Adjustment = message(1, Adjustment)


@dataclass
class StateChange(Message):
    event: int = number(1)
    pod: Pod = message(2, Pod)
    container: Container = message(3, Container)


@dataclass
class Empty(Message):
    pass


class NotRegistered(PylxcfsError):
    """The runtime does not take the plugin."""


class Running(NamedTuple):
    """A container that runs, of a chosen pod."""

    pid: int
    id: str
    name: str
    view: str


class Node(Protocol):
    """What the node does for the plugin."""

    def offer(self, view: str) -> Adjustment | None:
        """Return what a new container gets, at once; None while nothing is served."""
        ...

    def attach(self, container: Running) -> None:
        """Give a container that runs its files. It may take its time, and log what failed."""
        ...


class Selection(NamedTuple):
    """Which pods get views, where they do not say so themselves."""

    every: bool = False
    namespaces: frozenset[str] = frozenset()

    def view(self, pod: Pod) -> str | None:
        """Return "all", "proc" or "cpu"; None for a pod that is left alone."""
        word = pod.annotations.get(KEY, pod.labels.get(KEY))
        if word is None:
            return "all" if self.every or pod.namespace in self.namespaces else None
        view = _WORDS.get(word.strip().lower())
        if view is None and word.strip().lower() not in _OFF:
            _log.warning(
                "pod %r/%r: %s is %r: not one of %s, off; it is left alone",
                *(pod.namespace, pod.name, KEY, word[:80], ", ".join(VIEWS)),
            )
        return view


class Plugin:
    """Answers a runtime's calls; knows no socket."""

    def __init__(self, node: Node, selection: Selection) -> None:
        self._node = node
        self._selection = selection
        self._guard = Guard()
        self._pods: dict[str, Pod] = {}
        #: Containers that are to be attached.
        self.queue: queue.SimpleQueue[Running] = queue.SimpleQueue()
        self.latency = Latency()

    def answer(self, packet: ttrpc.Packet) -> ttrpc.Packet:
        """Return the answer to a request. Raise Malformed if it is none."""
        began = time.monotonic()
        request = ttrpc.Request.parse(packet.payload)
        work = self._methods().get(request.method)
        if work is None:
            status = ttrpc.Status(ttrpc.UNIMPLEMENTED, f"no method {request.method[:80]}")
            response = ttrpc.Response(status)
        else:
            nothing = Synchronized if request.method == "Synchronize" else Empty
            done = self._guard.call(
                f"NRI {request.method}", work, lambda _: nothing(), request.payload
            )
            response = ttrpc.Response(payload=done.encode())
        took = time.monotonic() - began
        _log.debug("NRI: %s took %.1f ms", request.method[:80], took * 1000)
        self.latency.add(request.method if work else None, took)
        if took > SLOW_S:
            _log.warning("NRI: %s was slow: %.0f ms", request.method[:80], took * 1000)
        return packet._replace(kind=ttrpc.RESPONSE, payload=response.encode())

    def _methods(self) -> dict[str, Callable[[bytes], Message]]:
        return {
            "Configure": self._configure,
            "Synchronize": self._synchronize,
            "CreateContainer": self._create,
            "StateChange": self._state,
            "PostStartContainer": self._started,
            "Shutdown": lambda _: Empty(),
        }

    def _configure(self, payload: bytes) -> Message:
        asked = Configure.parse(payload)
        _log.info("NRI: registered with %s %s", asked.runtime_name, asked.runtime_version)
        self._pods.clear()
        self.latency.registered = True
        return Configured(_EVENTS)

    def _synchronize(self, payload: bytes) -> Message:
        asked = Synchronize.parse(payload)
        self._pods.update((pod.id, pod) for pod in asked.pods)  # they may come before
        for container in asked.containers:
            pod = self._pods.get(container.pod_sandbox_id)
            if pod is not None and container.state == _RUNNING:
                self._queue(pod, container)
        if not asked.more:
            self._pods.clear()
        return Synchronized(asked.more)

    def _create(self, payload: bytes) -> Message:
        asked = CreateContainer.parse(payload)
        view = self._selection.view(asked.pod)
        adjust = self._node.offer(view) if view else None
        if adjust is None:
            return Created()
        taken = {mount.destination.rstrip("/") for mount in asked.container.mounts}
        mounts = [mount for mount in adjust.mounts if mount.destination not in taken]
        return Created(Adjustment(mounts, adjust.hooks))

    def _state(self, payload: bytes) -> Message:
        asked = StateChange.parse(payload)
        if asked.event == _POST_START:
            self._queue(asked.pod, asked.container)
        return Empty()

    def _started(self, payload: bytes) -> Message:
        """Answer what newer runtimes call instead of StateChange."""
        asked = CreateContainer.parse(payload)
        self._queue(asked.pod, asked.container)
        return Empty()

    def _queue(self, pod: Pod, container: Container) -> None:
        view = self._selection.view(pod)
        if view and container.pid > 0:
            name = f"{pod.namespace}/{pod.name}/{container.name}"
            self.queue.put(Running(container.pid, container.id, name, view))

    def attach_queued(self) -> None:
        """Attach one container after the other, for ever."""
        while True:
            container = self.queue.get()
            self._guard.attempt("NRI attach", partial(self._node.attach, container))


class Client:
    """Keeps a plugin registered at a socket, also when the runtime is started again."""

    def __init__(self, path: str, plugin: Plugin, name: str = NAME, index: str = INDEX) -> None:
        self._path = path
        self._plugin = plugin
        self.latency = plugin.latency
        self._register = RegisterPlugin(name, index)

    def run(self) -> None:
        """Serve for ever."""
        threading.Thread(target=self._plugin.attach_queued, daemon=True, name="attach").start()
        pause, said = _AGAIN_S[0], ""
        while True:
            began = time.monotonic()
            try:
                self.serve_once()
                why = "the runtime closed the connection"
            except (OSError, Malformed, NotRegistered) as error:
                why = str(error)
            self.latency.registered = False
            if time.monotonic() - began > _CALM_S:
                pause, said = _AGAIN_S[0], ""
            if why != said:
                _log.warning("NRI at %s: %s; trying again", self._path, why)
                said = why
            time.sleep(pause)
            pause = min(2 * pause, _AGAIN_S[1])

    def serve_once(self) -> None:
        """Register, and answer until the runtime ends. Raise OSError, Malformed, NotRegistered."""
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as channel:
            channel.connect(self._path)
            request = ttrpc.Request(_SERVICE, "RegisterPlugin", self._register.encode())
            packet = ttrpc.Packet(ttrpc.RUNTIME, 1, ttrpc.REQUEST, request.encode())
            channel.sendall(packet.encode())
            decoder = ttrpc.Decoder()
            while data := channel.recv(_CHUNK):
                for packet in decoder.feed(data):
                    if packet.connection == ttrpc.PLUGIN and packet.kind == ttrpc.REQUEST:
                        channel.sendall(self._plugin.answer(packet).encode())
                    elif packet.connection == ttrpc.RUNTIME and packet.kind == ttrpc.RESPONSE:
                        status = ttrpc.Response.parse(packet.payload).status
                        if status.code:
                            raise NotRegistered(f"the runtime refuses: {status.message[:200]}")
