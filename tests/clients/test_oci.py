"""OCI runtimes with a bundle: `runc spec` and container/oci's fragment, joined.

The runtime's process in the container resolves the paths of bind mounts, so they are of its own
node. With a user namespace the runtime opens them on the host: the caller mount's node.
"""

from __future__ import annotations

import json
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pylxcfs.attach import hook
from pylxcfs.attach import runtime as runtime_wrapper
from tests.clients.engines import (
    IDS,
    MEMORY,
    REPORT,
    busybox_root,
    check_report,
    give,
    open_directory,
    programs,
    pylxcfs,
    remove_cgroups,
    without_v2,
)
from tests.conftest import run_name
from tests.kit.cgroups import PERIOD_US
from tests.kit.daemon import ROOT, Daemon


@pytest.fixture(scope="module")
def daemon(hiding: Daemon) -> Daemon:
    return hiding


@pytest.fixture
def bundle() -> Iterator[Path]:
    with open_directory() as directory:
        yield directory


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
        give(root)
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
    programs("clients", "runc", runtime)
    cgroup = run_name(runtime)
    _fill(bundle, daemon, cgroup, user_namespace=user_namespace)
    command = [*without_v2(runtime), runtime, "--root", str(bundle / "state")]
    try:
        done = subprocess.run(
            [*command, "run", "-b", str(bundle), cgroup],
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
    pylxcfs(daemon, "oci-spec", *options, "--patch", str(bundle / "config.json"))


@pytest.mark.parametrize("options", [["--no-mounts"], []], ids=["hook", "hook+mounts"])
@pytest.mark.parametrize("user_namespace", [False, True], ids=["", "user-namespace"])
@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_the_hook_binds_every_file_of_the_containers_own(
    daemon: Daemon, runtime: str, user_namespace: bool, options: list[str], bundle: Path
) -> None:
    programs("clients", "runc", runtime)
    cgroup = run_name(runtime)
    _fill(bundle, daemon, cgroup, user_namespace=user_namespace, fragment=False)
    _patch(bundle, daemon, *options)
    command = [*without_v2(runtime), runtime, "--root", str(bundle / "state")]
    try:
        done = subprocess.run(
            [*command, "run", "-b", str(bundle), cgroup],
            capture_output=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )
    finally:
        remove_cgroups(cgroup)
    assert done.returncode == 0, done.stderr.decode()
    assert b"was bound" not in done.stderr, done.stderr.decode()
    check_report(done.stdout, everything=True)


@pytest.mark.parametrize("missing", ["mount", "hook", "python"])
@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_a_hook_that_can_do_nothing_does_not_stop_the_container(
    daemon: Daemon, runtime: str, missing: str, bundle: Path
) -> None:
    programs("clients", "runc", runtime)
    cgroup = run_name(runtime)
    _fill(bundle, daemon, cgroup, user_namespace=False, fragment=False)
    config = json.loads((bundle / "config.json").read_text())
    config["process"]["args"] = ["/bin/echo", "runs"]
    (bundle / "config.json").write_text(json.dumps(config))
    _patch(bundle, daemon, "--no-mounts")
    text = (bundle / "config.json").read_text()
    file = {"mount": str(daemon.mountpoint), "hook": hook.__file__, "python": sys.executable}
    assert file[missing] in text
    (bundle / "config.json").write_text(text.replace(file[missing], "/nowhere"))
    command = [*without_v2(runtime), runtime, "--root", str(bundle / "state")]
    command += ["run", "-b", str(bundle), cgroup]
    try:
        done = subprocess.run(command, capture_output=True, timeout=120, stdin=subprocess.DEVNULL)
    finally:
        remove_cgroups(cgroup)
    assert done.stdout == b"runs\n", done.stderr.decode()


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_a_mount_that_hangs_does_not_hold_a_container_up(runtime: str, bundle: Path) -> None:
    """Without its keeper, which would replace the server: nothing can interrupt the hook then."""
    programs("clients", "runc", runtime)
    cgroup = run_name(runtime)
    with Daemon(expect_log=[".*"]) as hanging:
        _fill(bundle, hanging, cgroup, user_namespace=False, fragment=False)
        config = json.loads((bundle / "config.json").read_text())
        config["process"]["args"] = ["/bin/echo", "runs"]
        (bundle / "config.json").write_text(json.dumps(config))
        _patch(bundle, hanging, "--no-mounts")
        keeper = psutil.Process(hanging.keeper)
        processes = [keeper, *keeper.children(recursive=True)]
        command = [*without_v2(runtime), runtime, "--root", str(bundle / "state")]
        for process in processes:
            process.suspend()
        start = subprocess.Popen(
            [*command, "run", "-b", str(bundle), cgroup],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            assert start.stdout is not None
            assert select.select([start.stdout], [], [], 30)[0], "the container does not start"
            assert start.stdout.readline() == b"runs\n"
        finally:
            for process in processes:
                process.resume()
            start.communicate(timeout=60)
            remove_cgroups(cgroup)


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_the_runtime_wrapper_adds_the_files(daemon: Daemon, runtime: str, bundle: Path) -> None:
    programs("clients", "runc", runtime)
    cgroup = run_name(runtime)
    _fill(bundle, daemon, cgroup, user_namespace=False, fragment=False)
    places = ["--pylxcfs-mountpoint", str(daemon.mountpoint), "--pylxcfs-runtime", runtime]
    command = [*without_v2(runtime), sys.executable, "-ISE", runtime_wrapper.__file__, *places]
    words = ["--root", str(bundle / "state"), "run", "--bundle", str(bundle), cgroup]
    try:
        done = subprocess.run(
            [*command, *words], capture_output=True, timeout=120, stdin=subprocess.DEVNULL
        )
    finally:
        remove_cgroups(cgroup)
    assert done.returncode == 0, done.stderr.decode()
    check_report(done.stdout)


def test_attach_into_a_container_of_one_static_binary(daemon: Daemon, bundle: Path) -> None:
    """It has no shell and no libraries; nothing of it is run."""
    programs("clients", "runc")
    cgroup = run_name("static")
    _fill(bundle, daemon, cgroup, user_namespace=False, fragment=False)
    full = bundle / "rootfs"
    only = bundle / "only"
    for name in ("dev", "proc", "sys"):
        (only / name).mkdir(parents=True)
    shutil.copy(full / "bin/busybox", only / "busybox")
    config = json.loads((bundle / "config.json").read_text())
    config["process"]["args"] = ["/busybox", "sleep", "1000"]
    config["root"] = {"path": "only", "readonly": True}
    (bundle / "config.json").write_text(json.dumps(config))
    runc = ["runc", "--root", str(bundle / "state")]

    def execute(*argv: str) -> bytes:
        return subprocess.check_output([*runc, "exec", cgroup, "/busybox", *argv], timeout=60)

    try:
        subprocess.run(
            [*runc, "run", "--detach", "-b", str(bundle), cgroup],
            check=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        before = execute("head", "-n1", "/proc/meminfo")
        assert before.split()[1] != b"%d" % (MEMORY >> 10)
        pylxcfs(daemon, "attach", cgroup)
        assert execute("head", "-n1", "/proc/meminfo").split()[1] == b"%d" % (MEMORY >> 10)
        assert execute("nproc", "--all") == b"1\n"
        state = json.loads(subprocess.check_output([*runc, "state", cgroup], timeout=60))
        lines = Path(f"/proc/{state['pid']}/mountinfo").read_text().splitlines()
        fields = [line.split() for line in lines if " fuse.pylxcfs " in line]
        key = fields[0][3].split("/")[2]
        assert all(field[3] == f"/own/{key}{field[4]}" for field in fields), fields
        assert len(fields) >= 10
        pylxcfs(daemon, "detach", cgroup)
        assert execute("head", "-n1", "/proc/meminfo").split()[1] == before.split()[1]
    finally:
        subprocess.run([*runc, "delete", "--force", cgroup], capture_output=True, timeout=60)
        remove_cgroups(cgroup)
