"""The node agent as a pod of a real containerd 2. Run by tests/kubernetes/test_alone.py."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from pylxcfs.keeper import instance
from tests.conftest import run_name, wait_until
from tests.kit.daemon import DEADLINE_S, ROOT

KEY = "pylxcfs.io/view"
MEMORY = 64 << 20


class Node:
    """A containerd, and a directory for the mounts on a shared mount.

    The agent's image has nothing: its programs are those of this machine.
    """

    image = "localhost/pylxcfs-test:1"
    command = (sys.executable, "-m", "pylxcfs")
    programs = sorted(
        {"/usr", "/lib", "/lib64", sys.prefix, os.path.realpath(sys.prefix), str(ROOT)}
    )
    environ: ClassVar = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}

    def __init__(self, containerd, directory: Path) -> None:
        self.containerd, self.directory = containerd, directory
        self.cgroup = run_name(f"agent-{directory.name}")
        self.places = [
            *("--cgroup", self.cgroup, "--runtime-dir", str(directory / "run")),
            str(directory / "mnt"),
        ]

    def agent(self):
        """Start an agent's pod."""
        from cri_api.v1 import api_pb2 as api

        def mount(path: str, how: int = api.PROPAGATION_PRIVATE):
            # The kubelet resolves links of the container's image; here none is of use.
            return api.Mount(host_path=os.path.realpath(path), container_path=path, propagation=how)

        mounts = [
            *(mount(path) for path in sorted({*self.programs})),
            mount(str(self.directory), how=api.PROPAGATION_BIDIRECTIONAL),
            mount("/sys/fs/cgroup"),
            mount(str(self.containerd.nri)),
        ]
        command = [*self.command, "node-agent", "--nri"]
        socket = ["--nri-socket", str(self.containerd.nri)]
        environ = {**self.environ, "PYLXCFS_TEST_RUN": os.environ["PYLXCFS_TEST_RUN"]}
        pod = self.containerd.daemon_pod(
            [*command, *socket, *self.places], mounts, environ, self.image
        )
        name = pod.config.metadata.name
        wait_until(lambda: self.is_ready(pod), DEADLINE_S, what="readiness")
        log = self.containerd.directory / f"{name}.log"
        wait_until(
            lambda: "NRI: registered" in log.read_text(), DEADLINE_S, what="the plugin to register"
        )
        return pod

    def is_ready(self, pod) -> bool:
        return pod.exit_code(*self.command, "node-agent", "--probe", *self.places) == 0

    @property
    def keeper(self) -> int | None:
        return instance.owner(str(self.directory / "run/pylxcfs.pid"))


@pytest.fixture(params=["native", "overlayfs"])
def here(
    request: pytest.FixtureRequest, newer_engines: str, short_directory: Path, _has_cri: None
) -> Iterator[Node]:
    """With overlayfs a pod's files outlive the pod, with native they do not."""
    with running(Node, short_directory, newer_engines, request.param) as node:
        yield node


@contextlib.contextmanager
def running(kind: type[Node], directory: Path, path: str, snapshotter: str) -> Iterator[Node]:
    """Start containerd; remove what agents have left."""
    from tests.kit.cri import Containerd

    shared = Path(tempfile.mkdtemp(prefix="pylxcfs-", dir="/tmp"))
    subprocess.run(["mount", "-t", "tmpfs", "none", shared], check=True)
    subprocess.run(["mount", "--make-shared", shared], check=True)
    with Containerd(directory, path, snapshotter) as containerd:
        node = kind(containerd, shared)
        try:
            yield node
        except BaseException as error:
            for log in directory.glob("*.log"):
                error.add_note(f"{log}: {log.read_text()}")
            raise
        finally:
            for pod in [*containerd.pods]:
                pod.end()
            command = [sys.executable, "-m", "pylxcfs", "node-agent", "--remove", *node.places]
            subprocess.run(command, check=True, timeout=DEADLINE_S, cwd=ROOT)
            subprocess.run(["umount", shared], check=True, timeout=DEADLINE_S)
            shared.rmdir()


def test_pods_read_on_when_the_agents_pod_is_replaced(here: Node, record_property) -> None:
    first = here.agent()
    keeper = here.keeper
    pod = here.containerd.pod(annotations={KEY: "all"})
    # Mounted at its start, or attached: the plugin has seen just now that the agent serves.
    wait_until(lambda: pod.memory() == MEMORY, DEADLINE_S, what="its limit")
    wait_until(lambda: "/proc/vmstat" in pod.mounts(), DEADLINE_S, what="what was attached")
    mounts = pod.mounts()
    assert all(root.startswith("/own/") for root in mounts.values())
    assert pod.run("grep -c ^processor /proc/cpuinfo").strip() == "1"

    pids = Path(f"/proc/{keeper}/cgroup").read_text()
    assert pod.container not in pids
    began = time.monotonic()
    first.end()  # stopped and removed
    record_property("figures", f"removing the agent's pod took {time.monotonic() - began:.1f} s")
    assert here.keeper == keeper
    assert pod.memory() == MEMORY
    # What it serves to a new container depends on its own /proc and cgroups.
    os.kill(keeper, signal.SIGUSR1)  # another server, without the pod
    source = {"/proc/meminfo": str(here.directory / "mnt/proc/meminfo")}
    new = here.containerd.pod(volumes=source)
    assert new.memory() == MEMORY
    assert list(new.mounts().values()) == ["/proc/meminfo"]  # of the caller mount
    between = here.containerd.pod(annotations={KEY: "all"})
    assert between.mounts() == {}  # no plugin

    wrong: list[object] = []
    longest = 0.0
    ended = threading.Event()
    process = next(
        int(entry)
        for entry in os.listdir("/proc")
        if entry.isdigit() and pod.container in Path(f"/proc/{entry}/cgroup").read_text()
    )

    def read() -> None:
        nonlocal longest
        while not ended.wait(0.01):
            at = time.monotonic()
            try:
                text = Path(f"/proc/{process}/root/proc/meminfo").read_bytes()
                if int(text.split()[1]) << 10 != MEMORY:
                    wrong.append(text)
            except OSError as error:
                wrong.append(error)
            longest = max(longest, time.monotonic() - at)

    thread = threading.Thread(target=read)
    thread.start()
    second = here.agent()
    ended.set()
    thread.join()
    keepers_log = (here.directory / "run/keeper.log").read_text()
    assert wrong == [], keepers_log
    assert "may not outlive" not in keepers_log
    record_property("figures", f"longest read while the next agent starts {longest * 1000:.0f} ms")
    assert here.keeper != keeper
    assert pod.mounts() == mounts
    wait_until(lambda: "/proc/vmstat" in between.mounts(), DEADLINE_S, what="files")
    assert between.memory() == MEMORY
    after = here.containerd.pod(annotations={KEY: "all"})
    assert after.memory() == MEMORY
    assert here.is_ready(second)
