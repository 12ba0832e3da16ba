"""A node of Kubernetes, as far as it can be had without a cluster."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require
from tests.kit.daemon import ROOT, Daemon


@pytest.fixture(scope="session")
def newer_engines() -> str:
    """A PATH with containerd 2, which is fetched and not installed."""
    directory = ROOT / ".cache/engines"
    fetch = [str(ROOT / "tools/fetch-engines"), str(directory)]
    done = subprocess.run(fetch, capture_output=True, text=True, timeout=500)
    if done.returncode != 0:
        require("newer-engines", done.stderr.strip() or f"{fetch[0]} exits {done.returncode}")
    return f"{directory}/usr/bin:{directory}/usr/sbin:{os.environ['PATH']}"


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A directory with a short name, for sockets."""
    directory = Path(tempfile.mkdtemp(prefix="pylxcfs-", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(autouse=True)
def _can_mount() -> None:
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        require("fuse", "it needs root and /dev/fuse")


@pytest.fixture(scope="session")
def node() -> Iterator[Daemon]:
    """`pylxcfs mount` for all tests."""
    with Daemon() as running:
        yield running


@pytest.fixture(scope="session")
def _has_cri() -> None:
    for name in ("grpc", "cri_api"):
        if importlib.util.find_spec(name) is None:
            reason = f"Python has no {name}: pip install container-runtime-interface-api"
            require("newer-engines", reason)
    for program in ("runc", "busybox"):
        if shutil.which(program) is None:
            require("newer-engines", f"there is no {program} on PATH")
