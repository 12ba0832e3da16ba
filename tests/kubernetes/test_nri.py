"""The NRI plugin with a real containerd 2, and pods that are asked for by CRI."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import trio

from tests.conftest import wait_until
from tests.kit.daemon import DEADLINE_S, ROOT, Daemon
from tests.unit.kubernetes.api import NamespacesApi, namespace

KEY = "pylxcfs.io/view"
MEMORY = 64 << 20


@pytest.fixture
def containerd(newer_engines: str, short_directory: Path, _has_cri: None) -> Iterator[object]:
    from tests.kit.cri import Containerd

    with Containerd(short_directory, newer_engines) as running:
        yield running


class Plugin:
    """`pylxcfs nri`."""

    def __init__(self, log: Path, process: subprocess.Popen[bytes]) -> None:
        self._log, self.process = log, process

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_registered(self, times: int = 1) -> None:
        """Wait until it has been registered so many times."""
        wait_until(
            lambda: self.log.count("NRI: registered with containerd") >= times,
            DEADLINE_S,
            what=f"the plugin to register; its log: {self.log}",
        )


@contextlib.contextmanager
def plugin(
    node: Daemon, containerd: object, *options: str, before: Sequence[str] = ()
) -> Iterator[Plugin]:
    """Run the plugin; `before` is what starts it."""
    log = containerd.directory / "plugin.log"  # type: ignore[attr-defined]
    words = ["nri", "--nri-socket", str(containerd.nri), *options]  # type: ignore[attr-defined]
    with open(log, "ab") as file:
        process = subprocess.Popen(
            [
                *before,
                *(sys.executable, "-m", "pylxcfs", *words),
                *("--runtime-dir", str(node.runtime_dir)),
            ],
            cwd=ROOT,
            stdout=file,
            stderr=file,
        )
    try:
        running = Plugin(log, process)
        running.wait_registered()
        yield running
        assert process.poll() is None, running.log
        assert "Traceback" not in running.log, running.log
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=DEADLINE_S)


def check_all(pod) -> None:
    """Everything is covered, by nodes of one container's own, at once or soon after the start."""
    wanted = {"/proc/meminfo", "/proc/stat", "/proc/vmstat", "/sys/devices/system/cpu"}
    if os.path.exists("/proc/pressure"):
        wanted.add("/proc/pressure")

    def is_covered() -> bool:
        mounts = pod.mounts()
        keys = {root.split("/")[2] for root in mounts.values() if root.startswith("/own/")}
        own = all(root.startswith("/own/") for root in mounts.values())
        return set(mounts) >= wanted and own and len(keys) == 1 and "host" not in keys

    # One that starts while the runtime takes the plugin in, on a busy machine, is attached.
    wait_until(is_covered, DEADLINE_S, what="its files")
    assert pod.memory() == MEMORY
    assert pod.run("grep -c ^processor /proc/cpuinfo").strip() == "1"


@pytest.mark.parametrize("by", ["hook", "mounts"])
def test_pods_get_their_files_as_they_ask(node: Daemon, containerd, by: str) -> None:
    with plugin(node, containerd, "--by", by):
        wanted = containerd.pod(annotations={KEY: "all"})
        if by == "mounts":  # the rest is attached after the start
            wait_until(lambda: "/proc/vmstat" in wanted.mounts(), DEADLINE_S, what="vmstat")
        check_all(wanted)
        labelled = containerd.pod(labels={KEY: "cpu"})
        assert set(labelled.mounts()) == {"/proc/cpuinfo", "/proc/stat", "/sys/devices/system/cpu"}
        off = containerd.pod(labels={KEY: "all"}, annotations={KEY: "off"})
        unasked = containerd.pod()
        assert off.mounts() == unasked.mounts() == {}


@pytest.mark.parametrize("by", ["hook", "mounts"])
def test_pods_that_start_at_once(node: Daemon, containerd, by: str, record_property) -> None:
    """The runtime waits for each answer, and drops a plugin after 2 s."""
    with plugin(node, containerd, "--by", by, "--log-level", "debug") as running:
        with ThreadPoolExecutor(8) as pool:
            pods = list(pool.map(lambda _: containerd.pod(annotations={KEY: "all"}), range(10)))
        for pod in pods:
            wait_until(lambda: "/proc/vmstat" in pod.mounts(), DEADLINE_S, what="files")  # noqa: B023
            check_all(pod)
        times = [float(ms) for ms in re.findall(r"CreateContainer took ([\d.]+) ms", running.log)]
        assert len(times) == 10
        times.sort()
        line = f"answer to CreateContainer by {by}: median {times[5]} ms, longest {times[-1]} ms"
        record_property("figures", line)
        assert running.log.count("NRI: registered") == 1  # it was not dropped


@pytest.mark.parametrize("by", ["hook", "mounts"])
def test_files_are_chosen_by_the_pod(node: Daemon, containerd, by: str) -> None:
    with plugin(node, containerd, "--by", by):
        pod = containerd.pod(annotations={KEY: "all", "pylxcfs.io/files": "meminfo,cpu"})
        assert set(pod.mounts()) == {"/proc/meminfo", "/sys/devices/system/cpu"}


def test_variables_are_those_of_the_limits_and_never_over_the_pods(
    node: Daemon, containerd
) -> None:
    from tests.kit.cri import api, limited

    own = [api.KeyValue(key="OMP_NUM_THREADS", value="7")]
    with plugin(node, containerd, "--env", "GOMAXPROCS,OMP_NUM_THREADS,GOMEMLIMIT"):
        pod = containerd.pod(annotations={KEY: "all"}, limits=limited(1.5, MEMORY), envs=own)
        words = '"$GOMAXPROCS $OMP_NUM_THREADS $GOMEMLIMIT"'
        assert pod.run(f"echo {words}") == "2 7 57MiB\n"
        assert containerd.pod().run(f"echo {words}") == "  \n"


@pytest.mark.parametrize("by", ["hook", "mounts"])
def test_all_containers_of_a_static_pod(node: Daemon, containerd, by: str) -> None:
    """Also init containers, and those that come later: no webhook sees a static pod."""
    static = {"kubernetes.io/config.source": "file", KEY: "all"}
    with plugin(node, containerd, "--by", by):
        pod = containerd.pod(annotations=static)
        assert pod.memory() == MEMORY
        script = 'grep -q "MemTotal: *65536 kB" /proc/meminfo || exec sleep 1000'
        init = pod.add("init", command=["/bin/sh", "-c", script])
        wait_until(init.ended, DEADLINE_S, what="the init container to read its limit")
        assert pod.add("debug").memory() == MEMORY


def test_a_pod_in_the_nodes_pid_namespace_is_left(node: Daemon, containerd) -> None:
    from tests.kit.cri import api

    with plugin(node, containerd, "--by", "mounts"):
        assert containerd.pod(annotations={KEY: "all"}, pid=api.NODE).mounts() == {}


@pytest.mark.parametrize("by", ["hook", "mounts"])
def test_requests_are_shown_where_there_is_no_limit(node: Daemon, containerd, by: str) -> None:
    """Already the first program reads them."""
    from tests.kit.cri import limited

    asking = {KEY: "all", "pylxcfs.io/requests": "true"}
    told = {**asking, "pylxcfs.io/requested": '{"small": {"cpu": "1", "memory": "96Mi"}}'}
    read = "head -n1 /proc/meminfo; grep -c ^processor /proc/cpuinfo"
    command = ["/bin/sh", "-c", f"({read}) > /tmp/first; exec sleep 1000"]

    def first(annotations: dict[str, str], limits: object) -> list[str]:
        pod = containerd.pod(annotations=annotations, limits=limits, command=command)
        wait_until(lambda: len(pod.run("cat /tmp/first").split()) == 4, DEADLINE_S, what="a read")
        return pod.run("cat /tmp/first").split()[1::2]

    host = [str(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 10)]
    with plugin(node, containerd, "--by", by):
        no_limits = limited(0, 0, shares=1024)
        assert first(told, no_limits) == [str(96 << 10), "1"]
        assert first(asking, no_limits) == [*host, "1"]
        assert first({KEY: "all"}, no_limits) == [*host, str(os.cpu_count())]
        # A limit counts alone.
        assert first(told, limited(0, MEMORY)) == [str(MEMORY >> 10), "1"]


def test_a_resize_in_place_shows(node: Daemon, containerd) -> None:
    from tests.kit.cri import limited

    def seen() -> tuple[int, int]:
        return pod.memory(), int(pod.run("grep -c ^processor /proc/cpuinfo"))

    with plugin(node, containerd):
        pod = containerd.pod(annotations={KEY: "all"})
        check_all(pod)
        for cpus, memory in ((2, 2 * MEMORY), (1, MEMORY)):
            pod.resize(limited(cpus, memory))
            wanted = memory, min(cpus, os.cpu_count() or 1)
            wait_until(lambda: seen() == wanted, DEADLINE_S, what=f"{wanted}")  # noqa: B023


def test_a_pod_that_came_in_by_host_path_gets_its_own_nodes(node: Daemon, containerd) -> None:
    """As one that a webhook has patched: the kubelet resolves the links on the host."""
    volumes = {f"/proc/{name}": f"{node.mountpoint}/proc/{name}" for name in ("meminfo", "stat")}
    pod = containerd.pod(annotations={KEY: "all"}, volumes=volumes)
    assert pod.mounts() == {path: path for path in volumes}
    with plugin(node, containerd):
        wait_until(lambda: "/sys/devices/system/cpu" in pod.mounts(), DEADLINE_S, what="files")
        check_all(pod)


def test_every_pod_of_a_namespace(node: Daemon, containerd) -> None:
    with plugin(node, containerd, "--namespaces", "web,batch"):
        check_all(containerd.pod(namespace="web"))
        assert containerd.pod(namespace="web", annotations={KEY: "off"}).mounts() == {}
        assert containerd.pod(namespace="kube-system").mounts() == {}


def test_namespaces_are_chosen_by_their_labels(node: Daemon, containerd, tmp_path: Path) -> None:
    """Also while pods run."""
    with choosing(node, containerd, tmp_path) as (running, add):
        # It registers once more now. What starts meanwhile is attached then.
        shop = containerd.pod(namespace="shop")
        wait_until(lambda: "/proc/vmstat" in shop.mounts(), DEADLINE_S, what="files")
        check_all(shop)
        assert containerd.pod(namespace="shop", labels={KEY: "off"}).mounts() == {}
        lab = containerd.pod(namespace="lab")
        assert lab.mounts() == {}
        add("lab")
        wait_until(lambda: "/sys/devices/system/cpu" in lab.mounts(), DEADLINE_S, what="files")
        check_all(lab)
        assert running.log.count("NRI: registered") >= 2


def test_pods_that_start_while_namespaces_are_chosen(
    node: Daemon, containerd, tmp_path: Path
) -> None:
    """The plugin registers again for each: no pod fails by that, or is left without files."""
    with choosing(node, containerd, tmp_path) as (running, add), ThreadPoolExecutor(3) as pool:
        pods = [pool.submit(containerd.pod, namespace="shop") for _ in range(6)]
        count = 0
        while not all(pod.done() for pod in pods):
            count += 1
            add(f"other-{count}")
            running.wait_registered(count + 1)
        for pod in [pod.result() for pod in pods]:
            wait_until(lambda: "/proc/vmstat" in pod.mounts(), DEADLINE_S, what="files")  # noqa: B023
            check_all(pod)


@contextlib.contextmanager
def choosing(
    node: Daemon, containerd: object, directory: Path
) -> Iterator[tuple[Plugin, Callable[[str], None]]]:
    """Run a plugin that has a service account where a pod has it, and "shop" as its namespace."""
    account = directory / "run/secrets/kubernetes.io/serviceaccount"
    account.mkdir(parents=True)
    with labelled(account) as (port, add):
        script = 'mount --bind "$1" /run && shift && exec "$@"'
        before = ["unshare", "-m", "sh", "-c", script, "sh", str(directory / "run"), "env"]
        before += ["KUBERNETES_SERVICE_HOST=127.0.0.1", f"KUBERNETES_SERVICE_PORT={port}"]
        options = ["--namespace-selector", "pylxcfs.io/view=all", "--by", "mounts"]
        with plugin(node, containerd, *options, before=before) as running:
            wait_until(
                lambda: "namespaces chosen by their labels: shop" in running.log,
                DEADLINE_S,
                what=f"the namespaces; its log: {running.log}",
            )
            yield running, add


@contextlib.contextmanager
def labelled(account: Path) -> Iterator[tuple[int, Callable[[str], None]]]:
    """Serve as an API server with one chosen namespace; yield its port, and what adds one."""
    fake = NamespacesApi(account)
    started: queue.SimpleQueue[tuple[int, trio.lowlevel.TrioToken, trio.CancelScope]]
    started = queue.SimpleQueue()

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            api = await nursery.start(fake.server.serve)
            token = trio.lowlevel.current_trio_token()
            started.put((api._port, token, nursery.cancel_scope))

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    port, token, scope = started.get(timeout=DEADLINE_S)

    def add(name: str) -> None:
        event = {"type": "ADDED", "object": namespace(name)}
        trio.from_thread.run(fake.events.send, event, trio_token=token)

    try:
        yield port, add
    finally:
        trio.from_thread.run_sync(scope.cancel, trio_token=token)
        thread.join()


def test_pods_that_run_are_attached_when_the_plugin_registers(node: Daemon, containerd) -> None:
    early = containerd.pod(annotations={KEY: "all"})
    other = containerd.pod()
    assert early.mounts() == {}
    with plugin(node, containerd):
        wait_until(lambda: "/sys/devices/system/cpu" in early.mounts(), DEADLINE_S, what="files")
        check_all(early)
        assert other.mounts() == {}


def test_it_registers_again_when_the_runtime_is_started_again(node: Daemon, containerd) -> None:
    with plugin(node, containerd) as running:
        containerd.stop()
        containerd.start()
        running.wait_registered(2)
        check_all(containerd.pod(annotations={KEY: "all"}))


def test_a_volume_of_the_pod_is_left_to_it(node: Daemon, containerd) -> None:
    uptime = containerd.directory / "uptime"
    uptime.write_text("1.00 1.00\n")
    with plugin(node, containerd, "--by", "mounts"):
        pod = containerd.pod(annotations={KEY: "all"}, volumes={"/proc/uptime": str(uptime)})
        assert pod.run("cat /proc/uptime") == "1.00 1.00\n"
        assert pod.memory() == MEMORY


@pytest.mark.parametrize("dead", [False, True], ids=["unmounted", "dead"])
def test_a_pod_starts_where_nothing_is_served(containerd, dead: bool) -> None:
    """Mounts from a dead mount would keep its container from starting."""
    with Daemon() as node, plugin(node, containerd, "--by", "mounts"):
        before = containerd.pod(annotations={KEY: "all"})
        assert before.memory() == MEMORY
        if dead:
            processes = [psutil.Process(node.keeper)]
            processes += processes[0].children(recursive=True)
            for process in processes:
                process.kill()
            node.process.wait(timeout=DEADLINE_S)
            assert node.is_mounted()
            time.sleep(1)  # the plugin notices within half a second
        else:
            node.stop()
        try:
            assert containerd.pod(annotations={KEY: "all"}).mounts() == {}
        finally:
            if dead:  # a start replaces both mounts
                node.start()
                node.wait_ready()
