"""The agent's pod with the image. Run by tests/kubernetes/test_image.py, which makes the image."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from pylxcfs import __version__
from tests.conftest import wait_until
from tests.kit.daemon import DEADLINE_S
from tests.kubernetes.alone.check_pod import KEY, MEMORY, Node, running

ARCHIVE = Path(os.environ["PYLXCFS_IMAGE"])
#: What the webhook and metrics import when they start.
IMPORTS = "import cryptography.x509, h11, hypercorn.trio, prometheus_client, starlette.applications"


class WithImage(Node):
    """Nothing of the machine's programs is in the agent's pod."""

    image = f"docker.io/library/pylxcfs:{__version__}"
    command = ("pylxcfs",)
    programs = ()
    environ: ClassVar = {}

    def __init__(self, containerd, directory: Path) -> None:
        super().__init__(containerd, directory)
        self._metrics = directory / "run/metrics"
        self.places = [f"--metrics-listen={self._metrics}", *self.places]

    def metrics(self) -> dict[str, float]:
        """Return what Prometheus would read: values by name and labels."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(DEADLINE_S)
            connection.connect(str(self._metrics))
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            text = b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode()
        lines = text.partition("\r\n\r\n")[2].splitlines()
        words = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in words}


@pytest.fixture
def here(newer_engines: str, short_directory: Path, _has_cri: None) -> Iterator[Node]:
    with running(WithImage, short_directory, newer_engines, "overlayfs") as node:
        node.containerd.load(ARCHIVE)
        yield node


def test_the_agents_pod_runs_from_the_image(here: Node) -> None:
    agent = here.agent()
    assert agent.run("pylxcfs --version") == f"pylxcfs {__version__}\n"
    assert "--probe" in agent.run("pylxcfs node-agent --help")
    assert "--volumes" in agent.run("pylxcfs webhook --help")
    assert agent.exit_code("python3", "-c", IMPORTS) == 0
    verbose = agent.run("python3 -v -c 'import pylxcfs.cli.commands' 2>&1")
    assert "matches /usr/local/lib/python3" in verbose
    assert "code object from /usr" not in verbose  # of a source file

    pod = here.containerd.pod(annotations={KEY: "all"})
    wait_until(lambda: pod.memory() == MEMORY, DEADLINE_S, what="its limit")
    wait_until(lambda: "/proc/vmstat" in pod.mounts(), DEADLINE_S, what="what was attached")
    # Those that ask and that do not; the agent's own is in the node's pid namespace.
    other = here.containerd.pod()
    found = here.metrics()
    bound = {kind: found[f'pylxcfs_pods{{bound="{kind}"}}'] for kind in ("own", "caller", "none")}
    assert bound == {"own": 1, "caller": 0, "none": 1}
    assert found["pylxcfs_nri_registered"] == 1
    assert found['pylxcfs_nri_answer_seconds_count{method="CreateContainer"}'] >= 2
    assert found['pylxcfs_nri_answer_seconds_sum{method="CreateContainer"}'] > 0
    other.end()

    keeper = here.keeper
    agent.end()
    assert here.keeper == keeper
    assert pod.memory() == MEMORY
    second = here.agent()
    assert pod.memory() == MEMORY
    assert here.is_ready(second)
