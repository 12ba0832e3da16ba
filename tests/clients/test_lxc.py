"""LXC, with the files of container/lxc as they are but for the directory."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.engines import (
    IDS,
    MEMORY,
    REPORT,
    busybox_root,
    check_report,
    give,
    open_directory,
    programs,
    remove_cgroups,
)
from tests.conftest import require, run_name, wait_until
from tests.kit.cgroups import PERIOD_US, is_v2
from tests.kit.daemon import ROOT, Daemon
from tests.kit.wellformed import check

#: The hook of Debian's package lxcfs: it binds what is in proc/, and knows no directories there.
LXCFS_HOOK = Path("/usr/share/lxcfs/lxc.mount.hook")
AUTO = "lxc.mount.auto = proc:mixed sys:mixed"
CONFIG = """
lxc.uts.name = ct
lxc.rootfs.path = dir:{root}
lxc.net.0.type = empty
lxc.apparmor.profile = unconfined
lxc.init.cmd = /bin/sleep 1000
lxc.cgroup.dir = {cgroup}
{limits}
{files}
"""
V1_LIMITS = f"""
lxc.cgroup.memory.limit_in_bytes = {MEMORY}
lxc.cgroup.cpu.cfs_period_us = {PERIOD_US}
lxc.cgroup.cpu.cfs_quota_us = {PERIOD_US}
"""
V2_LIMITS = f"""
lxc.cgroup2.memory.max = {MEMORY}
lxc.cgroup2.cpu.max = {PERIOD_US} {PERIOD_US}
"""


@pytest.fixture(scope="module")
def daemon(hiding: Daemon) -> Daemon:
    return hiding


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    programs("lxc", "lxc-start", "lxc-attach", "lxc-stop")
    return busybox_root(tmp_path_factory.mktemp("lxc") / "root")


@contextlib.contextmanager
def lxc(
    directory: Path, root: Path, files: str, *, user_namespace: bool = False
) -> Iterator[list[str]]:
    """Start a container; yield the command that runs others in it."""
    if user_namespace:
        ids = "{containerID} {hostID} {size}".format(**IDS)
        files += f"lxc.idmap = u {ids}\nlxc.idmap = g {ids}\n"
    cgroup = run_name("lxc")
    config = directory / "config"
    limits = V2_LIMITS if is_v2() else V1_LIMITS
    config.write_text(CONFIG.format(root=root, cgroup=cgroup, limits=limits, files=files))
    common = ["-P", str(directory), "-n", "ct", "-o", str(directory / "log"), "-l", "info"]
    start = ["lxc-start", *common, "-f", str(config)]
    done = subprocess.run(start, capture_output=True, timeout=120)
    try:
        assert done.returncode == 0, done.stderr.decode() + (directory / "log").read_text()
        yield ["lxc-attach", *common, "--"]
    finally:
        subprocess.run(["lxc-stop", *common, "-k"], capture_output=True, timeout=120)
        remove_cgroups(cgroup)


def report(attach: list[str]) -> bytes:
    # LXC limits CPU time after its hooks, and what one of them looked at lives a --cache-ttl.
    count = [*attach, "/bin/grep", "-c", "^processor", "/proc/cpuinfo"]
    wait_until(lambda: subprocess.check_output(count, timeout=60) == b"1\n", what="one CPU")
    done = subprocess.run([*attach, "/bin/sh", "-c", REPORT], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.fixture(params=[False, True], ids=["", "user-namespace"])
def place(request: pytest.FixtureRequest, root: Path) -> Iterator[tuple[Path, Path, bool]]:
    """A directory, a root filesystem, and whether the container has a user namespace."""
    with open_directory() as directory:
        if not request.param:
            yield directory, root, False
        else:
            own = directory / "root"
            shutil.copytree(root, own, symlinks=True)
            give(own)
            yield directory, own, True


Place = tuple[Path, Path, bool]


def test_mount_entries_give_a_container_its_own_files(daemon: Daemon, place: Place) -> None:
    directory, root, user_namespace = place
    text = (ROOT / "container/lxc/pylxcfs.conf").read_text()
    files = text.replace("/var/lib/pylxcfs", str(daemon.mountpoint))
    with lxc(directory, root, files, user_namespace=user_namespace) as attach:
        check_report(report(attach))
        ids = subprocess.check_output([*attach, "/bin/cat", "/proc/self/uid_map"], timeout=60)
        assert (b"100000" in ids) == user_namespace


def test_the_mount_hook_gives_a_container_its_own_files(daemon: Daemon, place: Place) -> None:
    directory, root, user_namespace = place
    # The root of a user namespace may not reach this checkout.
    hook = shutil.copy(ROOT / "container/lxc/mount.hook", directory / "hook")
    files = f"{AUTO}\nlxc.hook.mount = {hook} {daemon.mountpoint}\n"
    with lxc(directory, root, files, user_namespace=user_namespace) as attach:
        mounts = check_report(report(attach), everything=True)
        check_pressure(attach, mounts)


def test_lxcfs_own_mount_hook_gives_a_container_its_own_files(daemon: Daemon, place: Place) -> None:
    if not LXCFS_HOOK.exists():
        require("lxcfs", f"there is no {LXCFS_HOOK} (package lxcfs)")
    directory, root, user_namespace = place
    hook = directory / "hook"
    text = LXCFS_HOOK.read_text()
    assert "/var/lib/lxcfs" in text
    hook.write_text(text.replace("/var/lib/lxcfs", str(daemon.mountpoint)))
    hook.chmod(0o755)
    files = f"{AUTO}\nlxc.hook.mount = {hook}\n"
    with lxc(directory, root, files, user_namespace=user_namespace) as attach:
        mounts = check_report(report(attach))
        check_pressure(attach, mounts)


def test_an_instance_bound_over_lxcfs_mountpoint_as_incus_does(
    daemon: Daemon, place: Place
) -> None:
    """With `instances.lxcfs.per_instance`: and then LXCFS's hook, as it is."""
    for path in (LXCFS_HOOK, Path("/var/lib/lxcfs")):
        if not path.exists():
            require("lxcfs", f"there is no {path} (package lxcfs)")
    directory, root, user_namespace = place
    over = "lxc.hook.version = 1\n"
    over += f"lxc.hook.pre-mount = mount -o bind {daemon.mountpoint} /var/lib/lxcfs/\n"
    files = f"{AUTO}\n{over}lxc.hook.mount = {LXCFS_HOOK}\n"
    with lxc(directory, root, files, user_namespace=user_namespace) as attach:
        check_report(report(attach))
    assert not os.path.ismount("/var/lib/lxcfs")


def check_pressure(attach: list[str], mounts: dict[str, str]) -> None:
    """Check that proc/pressure is bound as a directory, and that its files can be read."""
    if not Path("/proc/pressure").exists():
        return
    assert mounts["/proc/pressure"].endswith("/proc/pressure"), mounts
    for name in ("cpu", "io", "memory"):
        read = [*attach, "/bin/cat", f"/proc/pressure/{name}"]
        check(f"proc/pressure/{name}", subprocess.check_output(read, timeout=60))
