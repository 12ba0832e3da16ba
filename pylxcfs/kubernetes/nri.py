"""The NRI plugin: containers of chosen pods get their views from the runtime.

    the runtime calls       the plugin
    Configure               names the events that it wants
    Synchronize             queues all containers of chosen pods that run: they are attached
    CreateContainer         answers with mounts or a hook, and variables, for a container of a
                            chosen pod
    StateChange             START_CONTAINER: notes what a container requests, before it runs.
                            POST_START_CONTAINER: queues it: what mounts cannot cover is attached
    StartContainer,         what newer runtimes call instead of StateChange
      PostStartContainer
    others                  answers that it does not have them

The answer never waits: attaching is done by a thread. A failure of ours is an answer without
adjustment, so no container fails by it. (github.com/containerd/nri pkg/api/api.proto; only fields
that are used are here.) How files are mounted is the Node's affair, what a pod asks for that of
annotations.py, as for the webhook.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from collections.abc import Container as Names
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple, Protocol

from pylxcfs.errors import PylxcfsError
from pylxcfs.guard import Guard
from pylxcfs.kubernetes import annotations as keys
from pylxcfs.kubernetes import environment, ttrpc
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
_SERVICE: Final = "nri.pkg.api.v1alpha1.Runtime"
_CREATE, _START, _POST_START = 4, 6, 7
_EVENTS: Final = 1 << (_CREATE - 1) | 1 << (_START - 1) | 1 << (_POST_START - 1)
_RUNNING: Final = 3
#: Seconds until the next try to connect: the first, and the longest.
_AGAIN_S: Final = (0.2, 5.0)
_CALM_S: Final = 10.0
_CHUNK: Final = 1 << 16
#: cpu.shares of one CPU. The kubelet writes 2 where a container requests none.
_SHARES: Final = 1024
_NO_SHARES: Final = 2


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
class Number(Message):
    """A number that may be missing; 0 then."""

    value: int = number(1)


@dataclass
class Memory(Message):
    limit: Number = message(1, Number)


@dataclass
class Cpu(Message):
    shares: Number = message(1, Number)
    quota: Number = message(2, Number)
    period: Number = message(3, Number)


@dataclass
class Resources(Message):
    memory: Memory = message(1, Memory)
    cpu: Cpu = message(2, Cpu)


@dataclass
class Device(Message):
    path: str = text(1)


@dataclass
class LinuxNamespace(Message):
    type: str = text(1)
    path: str = text(2)


@dataclass
class Linux(Message):
    namespaces: list[LinuxNamespace] = messages(1, LinuxNamespace)
    devices: list[Device] = messages(2, Device)
    resources: Resources = message(3, Resources)
    cgroups_path: str = text(5)


@dataclass
class Container(Message):
    id: str = text(1)
    pod_sandbox_id: str = text(2)
    name: str = text(3)
    state: int = number(4)
    env: list[str] = texts(8)
    mounts: list[Mount] = messages(9, Mount)
    linux: Linux = message(11, Linux)
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
class Variable(Message):
    key: str = text(1)
    value: str = text(2)


@dataclass
class Adjustment(Message):
    mounts: list[Mount] = messages(3, Mount)
    env: list[Variable] = messages(4, Variable)
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


class View(NamedTuple):
    """Which files a pod gets: those that it names, else a part of them."""

    #: all, proc or cpu.
    part: str = "all"
    #: Names of annotations.PATHS.
    files: tuple[str, ...] | None = None


class Requests(NamedTuple):
    """What a container requests of what it has no limit of."""

    cpus: float | None = None
    memory_bytes: int | None = None


class Running(NamedTuple):
    """A container that runs, of a chosen pod."""

    pid: int
    id: str
    name: str
    view: View


class Node(Protocol):
    """What the node does for the plugin."""

    def offer(self, view: View) -> Adjustment | None:
        """Return what a new container gets, at once; None while nothing is served."""
        ...

    def is_its_own(self, pid_namespace: str) -> bool:
        """Return whether a path is that of the node's pid namespace."""
        ...

    def request(self, cgroups_path: str, requests: Requests) -> None:
        """Let a container be shown what it requests, at once; its cgroups are there."""
        ...

    def attach(self, container: Running) -> None:
        """Give a container that runs its files. It may take its time, and log what failed."""
        ...


class Selection(NamedTuple):
    """Which pods get views, where they do not say so themselves."""

    every: bool = False
    namespaces: Names[str] = ()
    #: Namespaces that the API server says are chosen, as it has said so far.
    labelled: Names[str] = ()

    def view(self, pod: Pod, wishes: keys.Wishes) -> View | None:
        """Return what a pod gets; None for one that is left alone."""
        inject = wishes.inject
        if inject is None:
            inject = self.every or pod.namespace in self.namespaces
            inject = inject or pod.namespace in self.labelled
        return View(wishes.part or "all", wishes.files) if inject else None


def environ_of(container: Container) -> dict[str, str]:
    """Return the variables of a container, those of its image included."""
    words = (variable.partition("=") for variable in container.env)
    return {name: value for name, _, value in words}


def limits_of(container: Container) -> environment.Limits:
    """Return the limits of a container, and its GPUs: devices of NVIDIA, or what names them."""
    cpu = container.linux.resources.cpu
    quota, period = cpu.quota.value, cpu.period.value
    memory = container.linux.resources.memory.limit.value
    gpus = environment.gpus_of(device.path for device in container.linux.devices)
    if gpus is None:  # NVIDIA's device plugin tells its runtime by a variable
        gpus = environment.gpus_named(environ_of(container).get("NVIDIA_VISIBLE_DEVICES", ""))
    return environment.Limits(
        -(-quota // period) if quota > 0 and period > 0 else None,
        memory if memory > 0 else None,
        gpus,
    )


def requests_of(pod: Pod, container: Container) -> Requests:
    """Return what a container requests, by the webhook's annotation; CPU by its shares, too."""
    limits = limits_of(container)
    cpus, memory = _requested(pod.annotations.get(keys.REQUESTED, ""), container.name)
    shares = container.linux.resources.cpu.shares.value
    if cpus is None and shares > _NO_SHARES:
        cpus = shares / _SHARES
    return Requests(
        cpus if limits.cpus is None else None, memory if limits.memory_bytes is None else None
    )


def _requested(text: str, name: str) -> tuple[float | None, int | None]:
    """Return what the annotation says, which may be anybody's."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None, None
    resources = found.get(name) if isinstance(found, dict) else None
    return environment.amounts_of(resources) if isinstance(resources, dict) else (None, None)


class Plugin:
    """Answers a runtime's calls; knows no socket."""

    def __init__(self, node: Node, selection: Selection, env: Sequence[str] = ()) -> None:
        """`env`: variables that containers get whose pods do not say which."""
        self._node = node
        self._selection = selection
        self._env = env
        self._guard = Guard()
        self._runtime = "a runtime"
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
            "StartContainer": self._start,
            "PostStartContainer": self._started,
            "Shutdown": lambda _: Empty(),
        }

    def _configure(self, payload: bytes) -> Message:
        asked = Configure.parse(payload)
        self._runtime = f"{asked.runtime_name} {asked.runtime_version}"
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
            # The runtime asks for new containers from now on.
            _log.info("NRI: registered with %s", self._runtime)
            self._pods.clear()
        return Synchronized(asked.more)

    def _chosen(self, pod: Pod, container: Container, wishes: keys.Wishes) -> View | None:
        """Return what a container gets; None for one that is left alone."""
        view = self._selection.view(pod, wishes)
        if view is None or self._is_in_nodes_pid_namespace(container):
            return None
        return view

    def _is_in_nodes_pid_namespace(self, container: Container) -> bool:
        """Return whether a container has the node's processes, and so no view of its own."""
        spaces = {space.type: space.path for space in container.linux.namespaces}
        path = spaces.get("pid")
        if not path:  # a new one, if it is named
            return bool(spaces) and path is None
        return self._node.is_its_own(path)

    def _create(self, payload: bytes) -> Message:
        asked = CreateContainer.parse(payload)
        wishes = keys.wishes(asked.pod.annotations, asked.pod.labels)
        for mistake in wishes.mistakes:
            _log.warning("pod %r/%r: %s", asked.pod.namespace, asked.pod.name, mistake)
        view = self._chosen(asked.pod, asked.container, wishes)
        if view is None:
            return Created()
        offered = self._node.offer(view) or Adjustment()
        taken = [f"{mount.destination.rstrip('/')}/" for mount in asked.container.mounts]
        mounts = [
            mount
            for mount in offered.mounts
            if not any(path.startswith(f"{mount.destination}/") for path in taken)
        ]
        env = self._variables(asked, wishes)
        return Created(Adjustment(mounts, env, offered.hooks))

    def _variables(self, asked: CreateContainer, wishes: keys.Wishes) -> list[Variable]:
        """Return variables that neither the pod nor the image sets."""
        names = self._env if wishes.env is None else wishes.env
        limits = limits_of(asked.container)
        if wishes.requests:
            cpus, memory = requests_of(asked.pod, asked.container)
            limits = limits._replace(
                cpus=limits.cpus if cpus is None else max(1, math.ceil(cpus)),
                memory_bytes=limits.memory_bytes if memory is None else memory,
            )
        have = environ_of(asked.container)
        found = environment.values(limits, [name for name in names if name not in have])
        return [Variable(name, value) for name, value in found.items()]

    def _state(self, payload: bytes) -> Message:
        asked = StateChange.parse(payload)
        if asked.event == _START:
            self._note_requests(asked.pod, asked.container)
        elif asked.event == _POST_START:
            self._queue(asked.pod, asked.container)
        return Empty()

    def _start(self, payload: bytes) -> Message:
        asked = CreateContainer.parse(payload)
        self._note_requests(asked.pod, asked.container)
        return Empty()

    def _started(self, payload: bytes) -> Message:
        asked = CreateContainer.parse(payload)
        self._queue(asked.pod, asked.container)
        return Empty()

    def _note_requests(self, pod: Pod, container: Container) -> View | None:
        """Tell the node what a container requests, if it is to be shown; return what it gets."""
        wishes = keys.wishes(pod.annotations, pod.labels)
        view = self._chosen(pod, container, wishes)
        if view is not None and wishes.requests:
            self._node.request(container.linux.cgroups_path, requests_of(pod, container))
        return view

    def _queue(self, pod: Pod, container: Container) -> None:
        view = self._note_requests(pod, container)
        if view is not None and container.pid > 0:
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
        self._channel: socket.socket | None = None
        self._again = threading.Event()

    def register_again(self) -> None:
        """Have the runtime name all containers once more. For other threads than that of `run`."""
        self._again.set()
        channel = self._channel
        if channel is not None:
            with contextlib.suppress(OSError):  # it is not connected, or closed by now
                channel.shutdown(socket.SHUT_RD)  # what has arrived is answered

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
            if self._again.is_set():
                continue
            if why != said:
                _log.warning("NRI at %s: %s; trying again", self._path, why)
                said = why
            time.sleep(pause)
            pause = min(2 * pause, _AGAIN_S[1])

    def serve_once(self) -> None:
        """Register, and answer until the runtime ends. Raise OSError, Malformed, NotRegistered."""
        self._again.clear()
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as channel:
            self._channel = channel
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
