"""OCI runtimes with a bundle: `runc spec` and container/oci's fragment, joined.

The runtime's process in the container resolves the paths of bind mounts, so they are of its own
node. With a user namespace the runtime opens them on the host: the caller mount's node.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylxcfs.attach import runtime as runtime_wrapper
from tests.clients.engines import MEMORY, REPORT, busybox_root, check_report, remove_cgroups
from tests.clients.test_docker import printed_binds
from tests.conftest import require, run_name
from tests.kit.cgroups import PERIOD_US, is_v2
from tests.kit.daemon import ROOT, Daemon

#: crun refuses a host with v1 controllers and cgroup v2 side by side; it need not see the latter.
WITHOUT_V2 = """
umount /sys/fs/cgroup/unified || exit 1
exec "$@"
"""
IDS = {"containerID": 0, "hostID": 100_000, "size": 65_536}


def _require_runtime(name: str) -> None:
    if shutil.which(name) is None:
        require("clients", f"there is no {name} on PATH")


def _runtime(name: str) -> list[str]:
    if name == "crun" and not is_v2() and os.path.ismount("/sys/fs/cgroup/unified"):
        alone = ["unshare", "--mount", "--propagation=private"]
        return [*alone, "sh", "-c", WITHOUT_V2, "sh", name]
    return [name]


@pytest.fixture
def bundle() -> Iterator[Path]:
    """A directory that user namespaces reach, too."""
    directory = Path(tempfile.mkdtemp(prefix="pylxcfs-", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def _give(root: Path) -> None:
    """Give a root filesystem to the root of a user namespace."""
    for path in [root, *root.rglob("*")]:
        os.lchown(path, IDS["hostID"], IDS["hostID"])


def _fill(
    directory: Path, daemon: Daemon, cgroup: str, *, user_namespace: bool, fragment: bool = True
) -> None:
    root = busybox_root(directory / "rootfs")
    subprocess.run(["runc", "spec"], cwd=directory, check=True, timeout=60)
    config = json.loads((directory / "config.json").read_text())
    config["process"].update(terminal=False, args=["/bin/sh", "-c", REPORT])
    # A hard limit above the caller's own may need more rights than we have.
    config["process"].pop("rlimits", None)
    config["linux"]["cgroupsPath"] = f"/{cgroup}"
    config["linux"]["resources"] = {
        "memory": {"limit": MEMORY},
        "cpu": {"quota": PERIOD_US, "period": PERIOD_US},
    }
    if user_namespace:
        config["linux"]["namespaces"].append({"type": "user"})
        config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = [IDS]
        _give(root)
    if fragment:
        text = (ROOT / "container/oci/config.fragment.json").read_text()
        text = text.replace("/var/lib/pylxcfs", str(daemon.mountpoint))
        config["mounts"] += json.loads(text)["mounts"]
    (directory / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("user_namespace", [False, True], ids=["", "user-namespace"])
@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_a_bundle_with_the_fragment_has_its_own_files(
    daemon: Daemon, runtime: str, user_namespace: bool, bundle: Path
) -> None:
    for name in ("runc", runtime):
        _require_runtime(name)
    cgroup = run_name(runtime)
    _fill(bundle, daemon, cgroup, user_namespace=user_namespace)
    command = [*_runtime(runtime), "--root", str(bundle / "state"), "run", "-b", str(bundle)]
    try:
        done = subprocess.run(
            [*command, cgroup], capture_output=True, timeout=120, stdin=subprocess.DEVNULL
        )
    finally:
        remove_cgroups(cgroup)
    assert done.returncode == 0, done.stderr.decode()
    check_report(done.stdout, node="caller" if user_namespace else "own")


@pytest.mark.parametrize("user_namespace", [False, True], ids=["", "user-namespace"])
def test_podman_takes_dockers_line(daemon: Daemon, user_namespace: bool, bundle: Path) -> None:
    for name in ("podman", "runc"):
        _require_runtime(name)
    root = busybox_root(bundle / "rootfs")
    places = ["--root", str(bundle / "root"), "--runroot", str(bundle / "run")]
    engine = ["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--runtime=runc"]
    cgroup = run_name("podman")
    limits = ["--memory", str(MEMORY), "--cpus=1", f"--cgroup-parent=/{cgroup}"]
    # Podman asks for more files and processes than may be allowed here.
    rlimits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]
    alone = ["--rm", "--network=none", *rlimits]
    if user_namespace:
        ids = "{containerID}:{hostID}:{size}".format(**IDS)
        alone += [f"--uidmap={ids}", f"--gidmap={ids}"]
        _give(root)
    command = [*alone, *limits, *printed_binds(daemon), "--rootfs", str(root)]
    try:
        done = subprocess.run(
            ["podman", *places, *engine, "run", *command, "/bin/sh", "-c", REPORT],
            capture_output=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )
    finally:
        remove_cgroups(cgroup)
    assert done.returncode == 0, done.stderr.decode()
    check_report(done.stdout, node="caller" if user_namespace else "own")


def _patch(bundle: Path, daemon: Daemon, *options: str) -> None:
    """Add hook and mounts to the bundle's config.json, as a user does."""
    words = ["oci-spec", "--runtime-dir", str(daemon.runtime_dir), *options]
    command = [sys.executable, "-m", "pylxcfs", *words, "--patch", str(bundle / "config.json")]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("options", [["--no-mounts"], []], ids=["hook", "hook+mounts"])
@pytest.mark.parametrize("user_namespace", [False, True], ids=["", "user-namespace"])
@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_the_hook_binds_every_file_of_the_containers_own(
    daemon: Daemon, runtime: str, user_namespace: bool, options: list[str], bundle: Path
) -> None:
    for name in ("runc", runtime):
        _require_runtime(name)
    cgroup = run_name(runtime)
    _fill(bundle, daemon, cgroup, user_namespace=user_namespace, fragment=False)
    _patch(bundle, daemon, *options)
    command = [*_runtime(runtime), "--root", str(bundle / "state"), "run", "-b", str(bundle)]
    try:
        done = subprocess.run(
            [*command, cgroup], capture_output=True, timeout=120, stdin=subprocess.DEVNULL
        )
    finally:
        remove_cgroups(cgroup)
    assert done.returncode == 0, done.stderr.decode()
    assert b"was bound" not in done.stderr, done.stderr.decode()
    mounts = check_report(done.stdout)
    # Past runc's list of files that may be covered.
    assert mounts.keys() >= {"/proc/vmstat", "/sys/devices/system/node"}
    assert "/proc/pressure" in mounts or not os.path.exists("/proc/pressure")


def test_a_hook_without_a_mount_does_not_stop_the_container(daemon: Daemon, bundle: Path) -> None:
    _require_runtime("runc")
    cgroup = run_name("runc")
    _fill(bundle, daemon, cgroup, user_namespace=False, fragment=False)
    config = json.loads((bundle / "config.json").read_text())
    config["process"]["args"] = ["/bin/echo", "runs"]
    (bundle / "config.json").write_text(json.dumps(config))
    _patch(bundle, daemon, "--no-mounts")
    text = (bundle / "config.json").read_text()
    (bundle / "config.json").write_text(text.replace(str(daemon.mountpoint), "/nowhere"))
    command = ["runc", "--root", str(bundle / "state"), "run", "-b", str(bundle), cgroup]
    try:
        done = subprocess.run(command, capture_output=True, timeout=120, stdin=subprocess.DEVNULL)
    finally:
        remove_cgroups(cgroup)
    assert done.stdout == b"runs\n", done.stderr.decode()


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_the_runtime_wrapper_adds_the_files(daemon: Daemon, runtime: str, bundle: Path) -> None:
    for name in ("runc", runtime):
        _require_runtime(name)
    cgroup = run_name(runtime)
    _fill(bundle, daemon, cgroup, user_namespace=False, fragment=False)
    *before, program = _runtime(runtime)
    places = ["--pylxcfs-mountpoint", str(daemon.mountpoint), "--pylxcfs-runtime", program]
    command = [*before, sys.executable, "-ISE", runtime_wrapper.__file__, *places]
    words = ["--root", str(bundle / "state"), "run", "--bundle", str(bundle), cgroup]
    try:
        done = subprocess.run(
            [*command, *words], capture_output=True, timeout=120, stdin=subprocess.DEVNULL
        )
    finally:
        remove_cgroups(cgroup)
    assert done.returncode == 0, done.stderr.decode()
    check_report(done.stdout)
