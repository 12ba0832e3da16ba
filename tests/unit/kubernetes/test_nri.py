"""The plugin, with what a real containerd 2.1.9 has sent, and with a runtime of our own."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.cli.nri import directory_of
from pylxcfs.kubernetes import nri, ttrpc
from pylxcfs.kubernetes.annotations import (
    ALIASES,
    ENV,
    FILES,
    REQUESTED,
    REQUESTS,
    VIEW,
    wishes,
)
from pylxcfs.kubernetes.environment import VARIABLES
from pylxcfs.kubernetes.nri import (
    Adjustment,
    Container,
    Cpu,
    CreateContainer,
    Created,
    Device,
    Hook,
    Hooks,
    Linux,
    LinuxNamespace,
    Mount,
    Plugin,
    Pod,
    Requests,
    Resources,
    Running,
    Selection,
    StateChange,
    Synchronize,
    Synchronized,
    Variable,
    View,
)
from tests.conftest import wait_until

RECORDED = Path(__file__).parents[2] / "data/nri/containerd-2.1.9"
OFFER = Adjustment([Mount("/proc/meminfo", "bind", "/m/proc/meminfo", ["bind", "ro"])])
POD = Pod(id="p", name="web", namespace="shop", annotations={VIEW: "all"})


class Node:
    """Offers one mount, and remembers what was attached."""

    def __init__(self, offer: Adjustment | None = OFFER) -> None:
        self.given = offer
        self.attached: list[Running] = []
        self.views: list[View] = []
        self.requests: dict[str, Requests] = {}

    def offer(self, view: View) -> Adjustment | None:
        self.views.append(view)
        return self.given

    def is_its_own(self, pid_namespace: str) -> bool:
        return pid_namespace == "/proc/1/ns/pid"

    def request(self, cgroups_path: str, requests: Requests) -> None:
        self.requests[cgroups_path] = requests

    def attach(self, container: Running) -> None:
        self.attached.append(container)


class Broken:
    def offer(self, view: View) -> Adjustment | None:
        raise ZeroDivisionError

    def is_its_own(self, pid_namespace: str) -> bool:
        raise ZeroDivisionError

    def request(self, cgroups_path: str, requests: Requests) -> None:
        raise ZeroDivisionError

    def attach(self, container: Running) -> None:
        raise ZeroDivisionError


def ask(plugin: Plugin, method: str, payload: bytes) -> ttrpc.Response:
    request = ttrpc.Request("nri.pkg.api.v1alpha1.Plugin", method, payload)
    packet = ttrpc.Packet(ttrpc.PLUGIN, 3, ttrpc.REQUEST, request.encode())
    answer = plugin.answer(packet)
    assert answer[:3] == (ttrpc.PLUGIN, 3, ttrpc.RESPONSE)
    return ttrpc.Response.parse(answer.payload)


def view_of(selection: Selection, pod: Pod) -> View | None:
    return selection.view(pod, wishes(pod.annotations, pod.labels))


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
    assert answers[0].payload == b"\x10\x68"  # events 4, 6 and 7
    assert Created.parse(answers[2].payload).adjust == OFFER
    queued = [plugin.queue.get_nowait() for _ in range(2)]
    assert plugin.queue.empty()
    assert [one.name for one in queued] == ["default/pod-0/small", "default/pod-1/small"]
    assert all(one.pid > 1 and len(one.id) == 64 and one.view == View() for one in queued)


@pytest.mark.parametrize(
    ("annotation", "label", "part"),
    [
        (None, None, None),
        ("all", None, "all"),
        ("true", None, "all"),
        ("ON", None, "all"),
        ("No", "all", None),
        (" Proc ", None, "proc"),
        (None, "cpu", "cpu"),
        ("off", "all", None),
        ("cpu", "off", None),
        ("everything", None, None),
    ],
)
def test_a_pod_says_what_it_wants(
    annotation: str | None, label: str | None, part: str | None
) -> None:
    pod = Pod(
        namespace="shop",
        annotations={} if annotation is None else {VIEW: annotation},
        labels={} if label is None else {VIEW: label},
    )
    view = View(part) if part else None
    assert view_of(Selection(), pod) == view
    # As with the webhook: a word that is not understood is none.
    unsaid = label is None and annotation in (None, "everything")
    assert view_of(Selection(every=True), pod) == (View() if unsaid else view)
    for shop in ({"namespaces": {"shop"}}, {"labelled": {"shop"}}):
        assert view_of(Selection(**shop), pod) == (View() if unsaid else view)
    assert view_of(Selection(namespaces={"other"}, labelled={"other"}), pod) == view


@pytest.mark.parametrize("key", ALIASES)
def test_annotations_of_other_webhooks_are_understood(key: str) -> None:
    assert view_of(Selection(), Pod(annotations={key: "true"})) == View()
    assert view_of(Selection(every=True), Pod(annotations={key: "false"})) is None


def test_files_are_chosen_by_the_pod() -> None:
    pod = Pod(annotations={VIEW: "cpu", FILES: "meminfo,uptime"})
    assert view_of(Selection(), pod) == View("cpu", ("meminfo", "uptime"))
    node = Node()
    created(Plugin(node, Selection()), pod)
    assert node.views == [View("cpu", ("meminfo", "uptime"))]


def test_a_word_that_is_not_known_is_named(caplog: pytest.LogCaptureFixture) -> None:
    pod = Pod(name="web", annotations={VIEW: "some"})
    assert created(Plugin(Node(), Selection()), pod) == Adjustment()
    assert "'some' is not allowed, only: all, proc, cpu, off" in caplog.text


def limited(quota: int = 0, memory: int = 0, shares: int = 2, **fields: Any) -> Container:
    """Return a container with quota and shares in thousandths of a CPU, as the kubelet has it."""
    cpu = Cpu(nri.Number(shares * 1024 // 1000), nri.Number(quota * 100), nri.Number(100_000))
    devices = [Device(f"/dev/{name}") for name in fields.pop("devices", ())]
    resources = Resources(nri.Memory(nri.Number(memory)), cpu)
    return Container("c", "p", "app", linux=Linux([], devices, resources, "/pod/c"), **fields)


def environ(pod: Pod, container: Container, *env: str) -> dict[str, str]:
    return {
        one.key: one.value for one in created(Plugin(Node(), Selection(), env), pod, container).env
    }


def test_variables_are_those_of_the_limits_and_never_over_the_pods() -> None:
    devices = ("nvidia0", "nvidia1", "nvidiactl", "null")
    container = limited(1500, 2 << 30, devices=devices, env=["GOMAXPROCS=7", "PATH=/bin"])
    assert environ(POD, container) == {}, "off by default"
    assert environ(POD, container, *VARIABLES) == {
        "SLURM_CPUS_ON_NODE": "2",
        "SLURM_CPUS_PER_TASK": "2",
        "SLURM_MEM_PER_NODE": "2048",
        "SLURM_GPUS_PER_NODE": "2",
        "GOMEMLIMIT": "1843MiB",
        "OMP_NUM_THREADS": "2",
        "PYTHON_CPU_COUNT": "2",
        "UV_THREADPOOL_SIZE": "4",
        "RAYON_NUM_THREADS": "2",
        "JAVA_TOOL_OPTIONS": "-XX:ActiveProcessorCount=2",
    }
    chosen = Pod(annotations={VIEW: "all", ENV: "OMP_NUM_THREADS"})
    assert environ(chosen, container, *VARIABLES) == {"OMP_NUM_THREADS": "2"}
    assert environ(Pod(), container, *VARIABLES) == {}
    assert environ(POD, limited(), *VARIABLES) == {}


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [("GPU-1,GPU-2", "2"), ("0", "1"), ("all", None), ("none", None), ("void", None), ("", None)],
)
def test_gpus_that_a_device_plugin_names(visible: str, gpus: str | None) -> None:
    container = limited(env=[f"NVIDIA_VISIBLE_DEVICES={visible}"])
    assert environ(POD, container, "SLURM_GPUS_PER_NODE").get("SLURM_GPUS_PER_NODE") == gpus


def test_variables_are_given_while_nothing_is_served() -> None:
    plugin = Plugin(Node(None), Selection(), ("GOMAXPROCS",))
    assert created(plugin, POD, limited(500)).env == [Variable("GOMAXPROCS", "1")]


@pytest.mark.parametrize("method", ["StateChange", "StartContainer"])
def test_requests_are_noted_before_a_container_starts(method: str) -> None:
    def noted(pod: Pod, container: Container) -> Requests | None:
        node = Node()
        change = StateChange(6, pod, container)
        message = change if method == "StateChange" else CreateContainer(pod, container)
        ask(Plugin(node, Selection()), method, message.encode())
        return node.requests.get("/pod/c")

    asking = {VIEW: "all", REQUESTS: "true"}
    told = {**asking, REQUESTED: '{"app": {"cpu": "1500m", "memory": "1Gi"}}'}
    assert noted(POD, limited(shares=500)) is None, "off by default"
    assert noted(Pod(annotations={REQUESTS: "true"}), limited(shares=500)) is None
    assert noted(Pod(annotations=asking), limited(shares=500)) == Requests(0.5)
    assert noted(Pod(annotations=asking), limited()) == Requests()
    assert noted(Pod(annotations=told), limited(shares=1500)) == Requests(1.5, 1 << 30)
    assert noted(Pod(annotations=told), limited(2000, shares=1500)) == Requests(None, 1 << 30)
    assert noted(Pod(annotations=told), limited(memory=2 << 30)) == Requests(1.5)
    for nonsense in ("[", "[]", "{}", '{"app": 1}', '{"app": {"cpu": {}}}'):
        pod = Pod(annotations={**asking, REQUESTED: nonsense})
        assert noted(pod, limited(shares=500)) == Requests(0.5)


def test_variables_of_requests() -> None:
    requested = '{"app": {"cpu": "1500m", "memory": "1Gi"}}'
    pod = Pod(annotations={VIEW: "all", REQUESTS: "true", REQUESTED: requested})
    found = environ(pod, limited(memory=2 << 30), "GOMAXPROCS", "GOMEMLIMIT")
    assert found == {"GOMAXPROCS": "2", "GOMEMLIMIT": "1843MiB"}


def test_containers_in_the_nodes_pid_namespace_are_left() -> None:
    mount, pid = LinuxNamespace("mount"), LinuxNamespace("pid")
    nodes, pods = LinuxNamespace("pid", "/proc/1/ns/pid"), LinuxNamespace("pid", "/proc/7/ns/pid")
    plugin = Plugin(Node(), Selection())
    for left in ([mount], [mount, nodes]):
        assert created(plugin, POD, Container(linux=Linux(left))) == Adjustment()
    for own in ([mount, pid], [pods, mount], []):
        assert created(plugin, POD, Container(linux=Linux(own))) == OFFER


def test_cgroups_by_what_runtimes_call_them() -> None:
    assert directory_of("/kubepods/burstable/podX/ID") == "/kubepods/burstable/podX/ID"
    name = "kubepods-burstable-podX.slice:cri-containerd:ID"
    above = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podX.slice"
    assert directory_of(name) == f"{above}/cri-containerd-ID.scope"


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
    assert plugin.queue.get_nowait() == Running(42, "c", "shop/web/app", View())
    assert plugin.queue.empty()


@pytest.mark.parametrize("method", ["StateChange", "PostStartContainer"])
def test_a_container_that_has_started_is_queued(method: str) -> None:
    plugin = Plugin(Node(), Selection())
    container = Container("c", "p", "app", 3, pid=42)
    change = StateChange(7, POD, container)
    message = change if method == "StateChange" else CreateContainer(POD, container)
    ask(plugin, method, message.encode())
    assert plugin.queue.get_nowait() == Running(42, "c", "shop/web/app", View())


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
            assert runtime.call("Configure", b"").payload == b"\x10\x68"
            change = StateChange(7, POD, Container("c", "p", "app", 3, pid=42))
            assert runtime.call("StateChange", change.encode()) == ttrpc.Response()
            runtime.channel.sendall(b"\xff" * 100)  # garbage ends the connection
            assert runtime.channel.recv(10) == b""
            runtime.close()
            os.unlink(path)
        wait_until(lambda: len(node.attached) == 2, what="both to be attached")
    assert "trying again" in caplog.text


def test_it_registers_again_when_it_is_told_to(caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "nri.sock")
        client = nri.Client(path, Plugin(Node(), Selection()))
        client.register_again()  # there is no connection yet
        runtime = Runtime(path)
        threading.Thread(target=client.run, daemon=True).start()
        for _ in range(3):
            runtime.accept()
            assert not runtime.call("Configure", b"").status.code
            client.register_again()
            assert runtime.channel.recv(10) == b""
            runtime.channel.close()
        runtime.accept()
        runtime.close()
    assert "trying again" not in caplog.text.partition("closed the connection")[0]


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
