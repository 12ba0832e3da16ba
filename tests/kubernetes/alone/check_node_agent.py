"""The node agent on a node of its own. Run by tests/kubernetes/test_alone.py.

The parent of the mountpoint is a shared mount, and each agent has a mount namespace of its own, as
pods have with Bidirectional: mounts of the one are seen by the node and the next agent.
"""

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

import psutil
import pytest

from pylxcfs.keeper import instance
from pylxcfs.kubernetes import node
from tests.conftest import run_name, wait_until
from tests.kit.container import Container
from tests.kit.daemon import DEADLINE_S, ROOT, Daemon

MIB = 1 << 20


class Node:
    """Directories of a node, and commands of the agent on it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mountpoint = directory / "mnt"
        self.runtime_dir = directory / "run"
        self.cgroup = run_name(f"agent-{directory.name}")
        self.agents: list[subprocess.Popen[bytes]] = []

    def words(self, *options: str) -> list[str]:
        around = ["unshare", "--mount", "--propagation", "unchanged"]
        command = [*around, sys.executable, "-m", "pylxcfs", "node-agent", *options]
        places = ["--runtime-dir", str(self.runtime_dir), str(self.mountpoint)]
        return [*command, "--cgroup", self.cgroup, *places]

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        words = self.words(*options)
        return subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=ROOT)

    def start(self) -> subprocess.Popen[bytes]:
        """Start an agent, and wait until its own keeper serves."""
        before = self.log.count("serving at") + self.log.count("serves again")
        with open(self.directory / "log", "ab") as log:
            agent = subprocess.Popen(
                self.words(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT
            )
        self.agents.append(agent)

        def serves() -> bool:
            assert agent.poll() is None, self.log
            return self.log.count("serving at") + self.log.count("serves again") > before

        wait_until(serves, DEADLINE_S, what="the agent's keeper to serve")
        return agent

    @property
    def log(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self.directory / "log").read_text()
        return ""

    @property
    def keeper(self) -> int | None:
        return instance.owner(str(self.runtime_dir / "pylxcfs.pid"))

    def kill(self) -> None:
        """Kill keeper and servers at once, as an OOM killer would; wait for their end."""
        keeper = psutil.Process(self.keeper)
        processes = [keeper, *keeper.children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):  # it ends with the keeper
                process.kill()
        psutil.wait_procs(processes, timeout=DEADLINE_S)

    def devices(self) -> list[str]:
        """Return the devices of the mounts of pylxcfs that the node sees below its directory."""
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        ours = [line.split() for line in lines if " fuse.pylxcfs " in line]
        return [words[2] for words in ours if words[4].startswith(f"{self.directory}/")]


@pytest.fixture
def here() -> Iterator[Node]:
    directory = Path(tempfile.mkdtemp(prefix="pylxcfs-", dir="/tmp"))
    subprocess.run(["mount", "-t", "tmpfs", "none", directory], check=True)
    subprocess.run(["mount", "--make-shared", directory], check=True)
    directory.chmod(0o755)
    made = Node(directory)
    try:
        yield made
    finally:
        for agent in made.agents:
            with contextlib.suppress(ProcessLookupError):
                agent.send_signal(signal.SIGTERM)
            agent.wait(timeout=DEADLINE_S)
        removed = made.run("--remove")
        print(made.log, removed.stderr)
        assert removed.returncode == 0
        subprocess.run(["umount", directory], check=True, timeout=DEADLINE_S)
        directory.rmdir()


def total(container: Container) -> int:
    return int(container.read("/proc/meminfo").split()[1]) << 10


def reads(container: Container, mib: int) -> bool:
    try:
        return total(container) == mib * MIB
    except AssertionError:  # its file is dead
        return False


class Reader:
    """Reads a container's file all the time; counts failures, and the longest pause."""

    def __init__(self, container: Container, size: int) -> None:
        self.path, self.size = f"/proc/{container.pid}/root/proc/meminfo", size
        self.count = self.longest = 0.0
        self.wrong: list[object] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self._ended.wait(0.01):
            began = time.monotonic()
            try:
                found = int(Path(self.path).read_bytes().split()[1]) << 10
                if found != self.size:
                    self.wrong.append(found)
            except OSError as error:
                self.wrong.append(error)
            self.longest = max(self.longest, time.monotonic() - began)
            self.count += 1

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def test_pods_read_on_while_one_agent_follows_the_other(here: Node, record_property) -> None:
    first = here.start()
    devices = here.devices()
    assert len(devices) == 2  # the node sees both mounts
    keeper = here.keeper
    with Container(here.mountpoint, memory=100 * MIB) as made:
        assert total(made) == 100 * MIB
        with Reader(made, 100 * MIB) as reader:
            first.send_signal(signal.SIGTERM)
            assert first.wait(timeout=DEADLINE_S) == 0
            count = reader.count
            wait_until(lambda: reader.count > count + 20, what="reads without an agent")
            assert here.keeper == keeper
            here.start()
            count = reader.count
            wait_until(lambda: reader.count > count + 20, what="reads with the next agent")
        assert reader.wrong == []
        assert here.devices() == devices
        assert here.keeper != keeper
        with Container(here.mountpoint, memory=50 * MIB) as other:
            assert total(other) == 50 * MIB
    record_property("figures", f"longest read over an update {reader.longest * 1000:.0f} ms")


def test_the_keeper_is_in_cgroups_of_its_own(here: Node) -> None:
    here.start()
    lines = Path(f"/proc/{here.keeper}/cgroup").read_text().splitlines()
    paths = {line.split(":")[1]: line.split(":")[2] for line in lines}
    assert set(paths.values()) == {f"/{here.cgroup}"}, here.log
    for number in range(3):
        target = os.readlink(f"/proc/{here.keeper}/fd/{number}")
        assert target in ("/dev/null", f"{here.runtime_dir}/keeper.log")


def test_containers_are_healed_after_everything_was_killed(here: Node) -> None:
    agent = here.start()
    with Container(here.mountpoint, memory=100 * MIB) as made:
        assert total(made) == 100 * MIB
        here.kill()
        assert agent.wait(timeout=DEADLINE_S) == 1  # its pod is started again
        wait_until(lambda: not reads(made, 100), what="its files to be dead")
        assert here.run("--probe").returncode == 1
        began = time.monotonic()
        here.start()
        wait_until(lambda: reads(made, 100), DEADLINE_S, what="its files")
        assert time.monotonic() - began < 30
        assert len(here.devices()) == 2
    assert "2 stale mounts were removed" in here.log


def test_the_probe_reads_through_the_mounts(here: Node) -> None:
    assert here.run("--probe").returncode == 1
    agent = here.start()
    done = here.run("--probe")
    assert (done.returncode, done.stderr) == (0, "")
    server = [
        child.pid
        for child in psutil.Process(here.keeper).children()
        if "--heartbeat-fd" in child.cmdline()
    ]
    for pid in [here.keeper, *server]:
        os.kill(pid, signal.SIGSTOP)  # nobody answers, and nobody notices
    done = here.run("--probe")
    for pid in [here.keeper, *server]:
        os.kill(pid, signal.SIGCONT)
    assert done.returncode == 1
    assert "does not answer within 2 s" in done.stderr
    assert agent.poll() is None


def test_links_serve_while_nothing_is_mounted(here: Node) -> None:
    here.start()
    here.kill()
    assert len(here.devices()) == 2
    # Below a dead mount, from which nothing can be read.
    node.make_skeleton(str(here.mountpoint), ["proc/meminfo"])
    assert node.clear([str(here.mountpoint), str(here.runtime_dir / "caller")]) == 2
    assert here.devices() == []
    assert (here.mountpoint / "proc/meminfo").readlink() == Path("/proc/meminfo")
    assert (here.mountpoint / "proc/meminfo").read_bytes().startswith(b"MemTotal:")
    assert (here.mountpoint / "sys/devices/system/cpu/online").exists()
    with Container(here.mountpoint, memory=100 * MIB, files=["proc/meminfo"]) as made:
        assert total(made) > 100 * MIB  # the host's
    here.start()


def test_remove_leaves_nothing(here: Node) -> None:
    here.start()
    with Container(here.mountpoint, memory=100 * MIB) as made:
        assert total(made) == 100 * MIB
        assert here.run("--remove").returncode == 0
        assert total(made) > 100 * MIB  # the kernel's
    assert here.keeper is None
    assert here.devices() == []
    assert list(here.mountpoint.iterdir()) == []
    assert not (here.runtime_dir / "keeper.log").exists()


def test_an_instance_that_is_no_agents_is_left(here: Node) -> None:
    with Daemon(expect_log=[r"namespace of its own"]) as other:
        here.runtime_dir, here.mountpoint = other.runtime_dir, other.mountpoint
        done = here.run()
        assert done.returncode == 5
        assert "no node agent's" in done.stderr
        here.runtime_dir, here.mountpoint = here.directory / "run", here.directory / "mnt"
        assert other.process.poll() is None
