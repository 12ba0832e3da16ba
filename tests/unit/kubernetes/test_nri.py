"""The plugin, with what a real containerd 2.1.9 has sent, and with a runtime of our own."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.kubernetes import nri, ttrpc
from pylxcfs.kubernetes.nri import (
    Adjustment,
    Container,
    CreateContainer,
    Created,
    Hook,
    Hooks,
    Mount,
    Plugin,
    Pod,
    Running,
    Selection,
    StateChange,
    Synchronize,
    Synchronized,
)
from tests.conftest import wait_until

RECORDED = Path(__file__).parents[2] / "data/nri/containerd-2.1.9"
OFFER = Adjustment([Mount("/proc/meminfo", "bind", "/m/proc/meminfo", ["bind", "ro"])])
POD = Pod(id="p", name="web", namespace="shop", annotations={nri.KEY: "all"})


class Node:
    """Offers one mount, and remembers what was attached."""

    def __init__(self, offer: Adjustment | None = OFFER) -> None:
        self.given = offer
        self.attached: list[Running] = []

    def offer(self, view: str) -> Adjustment | None:
        assert view in nri.VIEWS
        return self.given

    def attach(self, container: Running) -> None:
        self.attached.append(container)


class Broken:
    def offer(self, view: str) -> Adjustment | None:
        raise ZeroDivisionError

    def attach(self, container: Running) -> None:
        raise ZeroDivisionError


def ask(plugin: Plugin, method: str, payload: bytes) -> ttrpc.Response:
    request = ttrpc.Request("nri.pkg.api.v1alpha1.Plugin", method, payload)
    packet = ttrpc.Packet(ttrpc.PLUGIN, 3, ttrpc.REQUEST, request.encode())
    answer = plugin.answer(packet)
    assert answer[:3] == (ttrpc.PLUGIN, 3, ttrpc.RESPONSE)
    return ttrpc.Response.parse(answer.payload)


def created(plugin: Plugin, pod: Pod, container: Container | None = None) -> Adjustment:
    payload = CreateContainer(pod, container or Container(id="c")).encode()
    return Created.parse(ask(plugin, "CreateContainer", payload).payload).adjust


def test_the_calls_of_a_real_runtime() -> None:
    packets = ttrpc.Decoder().feed(RECORDED.read_bytes())
    assert ttrpc.Response.parse(packets[0].payload) == ttrpc.Response()  # to RegisterPlugin
    requests = [ttrpc.Request.parse(packet.payload) for packet in packets[1:]]
    methods = [request.method for request in requests]
    assert methods == ["Configure", "Synchronize", "CreateContainer", "StateChange"]
    configure = nri.Configure.parse(requests[0].payload)
    assert (configure.runtime_name, configure.request_timeout_ms) == ("containerd", 2000)
    node = Node()
    plugin = Plugin(node, Selection())
    answers = [ttrpc.Response.parse(plugin.answer(packet).payload) for packet in packets[1:]]
    assert all(not answer.status.code for answer in answers)
    assert answers[0].payload == b"\x10\x48"  # events 4 and 7
    assert Created.parse(answers[2].payload).adjust == OFFER
    queued = [plugin.queue.get_nowait() for _ in range(2)]
    assert plugin.queue.empty()
    assert [one.name for one in queued] == ["default/pod-0/small", "default/pod-1/small"]
    assert all(one.pid > 1 and len(one.id) == 64 and one.view == "all" for one in queued)


@pytest.mark.parametrize(
    ("annotation", "label", "view"),
    [
        (None, None, None),
        ("all", None, "all"),
        ("true", None, "all"),
        ("ON", None, "all"),
        ("No", "all", None),
        (" Proc ", None, "proc"),
        (None, "cpu", "cpu"),
        ("off", "all", None),
        ("cpu", "off", "cpu"),
        ("everything", None, None),
    ],
)
def test_a_pod_says_what_it_wants(
    annotation: str | None, label: str | None, view: str | None
) -> None:
    pod = Pod(
        namespace="shop",
        annotations={} if annotation is None else {nri.KEY: annotation},
        labels={} if label is None else {nri.KEY: label},
    )
    assert Selection().view(pod) == view
    unsaid = annotation is None and label is None
    assert Selection(every=True).view(pod) == ("all" if unsaid else view)
    assert Selection(namespaces=frozenset({"shop"})).view(pod) == ("all" if unsaid else view)
    assert Selection(namespaces=frozenset({"other"})).view(pod) == view


def test_a_word_that_is_not_known_is_named(caplog: pytest.LogCaptureFixture) -> None:
    assert Selection().view(Pod(name="web", annotations={nri.KEY: "some"})) is None
    assert "'some': not one of all, proc, cpu, off" in caplog.text


def test_mounts_of_the_pod_are_left() -> None:
    own = Container(mounts=[Mount(destination="/proc/meminfo")])
    assert created(Plugin(Node(), Selection()), POD, own) == Adjustment()


def test_a_hook() -> None:
    offer = Adjustment(hooks=Hooks([Hook("/usr/bin/python3", ["python3", "hook.py"])]))
    assert created(Plugin(Node(offer), Selection()), POD) == offer


def test_nothing_is_offered_while_nothing_is_served() -> None:
    assert created(Plugin(Node(None), Selection()), POD) == Adjustment()


def test_a_bug_of_ours_fails_no_container(caplog: pytest.LogCaptureFixture) -> None:
    plugin = Plugin(Broken(), Selection())
    assert ask(plugin, "CreateContainer", CreateContainer(POD).encode()) == ttrpc.Response()
    assert "ZeroDivisionError" in caplog.text


@given(st.sampled_from(["Configure", "Synchronize", "CreateContainer", "StateChange"]), st.binary())
def test_garbage_is_answered_without_an_adjustment(method: str, payload: bytes) -> None:
    answer = ask(Plugin(Node(), Selection()), method, payload)
    assert answer.status.code == 0
    if method == "CreateContainer":
        assert Created.parse(answer.payload).adjust == Adjustment()


def test_a_method_that_is_not_known() -> None:
    assert ask(Plugin(Node(), Selection()), "Dance", b"").status.code == ttrpc.UNIMPLEMENTED


def test_synchronization_in_several_messages() -> None:
    plugin = Plugin(Node(), Selection())
    first = Synchronize([POD], [], more=True)
    second = Synchronize(
        [], [Container("c", "p", "app", 3, pid=42), Container("d", "p", "gone", 4)]
    )
    for message in (first, second):
        answer = ask(plugin, "Synchronize", message.encode())
        assert Synchronized.parse(answer.payload).more == message.more
    assert plugin.queue.get_nowait() == Running(42, "c", "shop/web/app", "all")
    assert plugin.queue.empty()


@pytest.mark.parametrize("method", ["StateChange", "PostStartContainer"])
def test_a_container_that_has_started_is_queued(method: str) -> None:
    plugin = Plugin(Node(), Selection())
    container = Container("c", "p", "app", 3, pid=42)
    change = StateChange(7, POD, container)
    message = change if method == "StateChange" else CreateContainer(POD, container)
    ask(plugin, method, message.encode())
    assert plugin.queue.get_nowait() == Running(42, "c", "shop/web/app", "all")


class Runtime:
    """Accepts a plugin, and calls it."""

    def __init__(self, path: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(1)
        self._listener.settimeout(10)

    def accept(self, code: int = 0) -> None:
        self.channel, _ = self._listener.accept()
        self.channel.settimeout(10)
        self._decoder = ttrpc.Decoder()
        packet = self.receive()
        request = ttrpc.Request.parse(packet.payload)
        assert request.method == "RegisterPlugin"
        assert nri.RegisterPlugin.parse(request.payload) == nri.RegisterPlugin("pylxcfs", "50")
        response = ttrpc.Response(ttrpc.Status(code, "no" if code else ""))
        answer = packet._replace(kind=ttrpc.RESPONSE, payload=response.encode())
        self.channel.sendall(answer.encode())

    def receive(self) -> ttrpc.Packet:
        while not (packets := self._decoder.feed(self.channel.recv(4096))):
            pass
        return packets[0]

    def call(self, method: str, payload: bytes) -> ttrpc.Response:
        request = ttrpc.Request("", method, payload)
        packet = ttrpc.Packet(ttrpc.PLUGIN, 1, ttrpc.REQUEST, request.encode())
        self.channel.sendall(packet.encode())
        return ttrpc.Response.parse(self.receive().payload)

    def close(self) -> None:
        self.channel.close()
        self._listener.close()


def test_it_registers_again_after_the_runtime_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    node = Node()
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "nri.sock")
        plugin = Plugin(node, Selection())
        # A daemon thread: `run` goes on for ever.
        threading.Thread(target=nri.Client(path, plugin).run, daemon=True).start()
        for _ in range(2):
            wait_until(lambda: not os.path.exists(path), what="the place to be free")
            runtime = Runtime(path)
            runtime.accept()
            assert runtime.call("Configure", b"").payload == b"\x10\x48"
            change = StateChange(7, POD, Container("c", "p", "app", 3, pid=42))
            assert runtime.call("StateChange", change.encode()) == ttrpc.Response()
            runtime.channel.sendall(b"\xff" * 100)  # garbage ends the connection
            assert runtime.channel.recv(10) == b""
            runtime.close()
            os.unlink(path)
        wait_until(lambda: len(node.attached) == 2, what="both to be attached")
    assert "trying again" in caplog.text


def test_a_runtime_that_refuses() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "nri.sock")
        runtime = Runtime(path)
        thread = threading.Thread(target=lambda: runtime.accept(code=7))
        thread.start()
        with pytest.raises(nri.NotRegistered, match="no"):
            nri.Client(path, Plugin(Node(), Selection())).serve_once()
        thread.join()
        runtime.close()
