"""tools/make-bundle: a directory that runs without the repository and without packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import require

ROOT = Path(__file__).parents[3]
#: Sees no repository and no venv, has no environment, and runs a command.
#: Hides the repository, and the venv where it is not in there.
ALONE = """
mount -t tmpfs x "$1" || exit 1
[ ! -d "$2" ] || mount -t tmpfs x "$2" || exit 1
shift 2
cd / && exec "$@"
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if os.path.realpath(sys.executable).startswith((str(ROOT), os.path.realpath(sys.prefix))):
        require("bundle", "the Python itself is in the venv")
    directory = tmp_path_factory.mktemp("bundle") / "pylxcfs"
    subprocess.run([sys.executable, "tools/make-bundle", str(directory)], cwd=ROOT, check=True)
    return directory


def alone(*words: str) -> list[str]:
    if os.geteuid() != 0:
        require("bundle", "hiding the repository needs root")
    here = [str(ROOT), os.path.realpath(sys.prefix)]
    variables = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
    python = f"PYLXCFS_PYTHON={os.path.realpath(sys.executable)}"
    unshare = ["unshare", "--mount", "--propagation", "private"]
    return [*unshare, "sh", "-c", ALONE, "sh", *here, *variables, python, *words]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(alone(*words), capture_output=True, text=True, timeout=60, check=False)


def test_it_runs_without_the_repository(bundle):
    done = run(str(bundle / "pylxcfs"), "--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("pylxcfs ")
    done = run(str(bundle / "pylxcfs"), "show", "proc/uptime", "--pid", str(os.getpid()))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 2


def test_it_serves(bundle, tmp_path):
    if not os.path.exists("/dev/fuse"):
        require("fuse", "there is no /dev/fuse")
    place = tmp_path / "m"
    place.mkdir()
    words = ["mount", "--runtime-dir", str(tmp_path / "run"), str(place)]
    with (tmp_path / "log").open("w") as log:
        daemon = subprocess.Popen(alone(str(bundle / "pylxcfs"), *words), stderr=log)
    try:
        read = f"/proc/{daemon.pid}/root{place}/proc/uptime"  # in its mount namespace
        until = time.monotonic() + 30
        while "serving at" not in (tmp_path / "log").read_text():
            assert time.monotonic() < until, (tmp_path / "log").read_text()
            assert daemon.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
        done = subprocess.run(["cat", read], capture_output=True, timeout=20, check=False)
        assert len(done.stdout.split()) == 2, done.stderr
    finally:
        daemon.terminate()
        assert daemon.wait(timeout=30) == 0, (tmp_path / "log").read_text()


def test_its_unit_starts_the_bundle(bundle, tmp_path):
    done = run(str(bundle / "pylxcfs"), "install", "--root", str(tmp_path))
    assert done.returncode == 0, done.stderr
    unit = (tmp_path / "etc/systemd/system/pylxcfs.service").read_text()
    assert f"ExecStart={bundle}/pylxcfs mount --heal\n" in unit


def test_another_python_is_refused(bundle, tmp_path):
    copy = tmp_path / "pylxcfs"
    shutil.copytree(bundle, copy)
    launcher = copy / "pylxcfs"
    launcher.write_text(launcher.read_text().replace(sys.implementation.cache_tag, "cpython-99"))
    done = subprocess.run([str(launcher), "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "this bundle is for cpython-99" in done.stderr
