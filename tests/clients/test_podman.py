"""Podman: Docker's line, CDI and hooks.d.

It reads CDI specifications from /etc/cdi and /run/cdi alone, so it runs in a mount namespace with a
/run of its own.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    pylxcfs,
    remove_cgroups,
    without_v2,
)
from tests.clients.test_docker import printed_binds
from tests.conftest import run_name
from tests.kit.daemon import Daemon

_ALONE = """
mount -t tmpfs run /run && mkdir /run/cdi /run/lock || exit 1
[ ! -d "$CDI" ] || cp "$CDI"/* /run/cdi || exit 1
exec "$@"
"""
Podman = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="module")
def daemon(hiding: Daemon) -> Daemon:
    return hiding


@pytest.fixture
def place() -> Iterator[Path]:
    with open_directory() as directory:
        yield directory


@contextmanager
def running(place: Path) -> Iterator[Podman]:
    """Yield a function that runs REPORT, or another program, in a container with limits."""
    root = busybox_root(place / "rootfs")
    cgroup = run_name("podman")

    def run(
        runtime: str, *options: str, user_namespace: bool = False, argv: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[bytes]:
        programs("clients", "podman", runtime)
        directories = ["--root", str(place / "root"), "--runroot", str(place / "run")]
        engine = [f"--tmpdir={place}/tmp", "--storage-driver=vfs", "--cgroup-manager=cgroupfs"]
        # Podman asks for more files and processes than may be allowed here.
        rlimits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]
        alone = ["--rm", "--network=none", *rlimits]
        limits = ["--memory", str(MEMORY), "--cpus=1", f"--cgroup-parent=/{cgroup}"]
        if user_namespace:
            ids = "{containerID}:{hostID}:{size}".format(**IDS)
            alone += [f"--uidmap={ids}", f"--gidmap={ids}"]
            give(root)
        globals_ = [option for option in options if option.startswith("--hooks-dir")]
        others = [option for option in options if option not in globals_]
        return subprocess.run(
            [
                *("unshare", "--mount", "--propagation=private"),
                *("env", f"CDI={place}/cdi", "sh", "-c", _ALONE, "sh"),
                *without_v2(runtime),
                *("podman", *directories, *engine, f"--runtime={runtime}", *globals_),
                *("run", *alone, *limits, *others, "--rootfs", str(root)),
                *(argv or ("/bin/sh", "-c", REPORT)),
            ],
            capture_output=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )

    try:
        yield run
    finally:
        remove_cgroups(cgroup)


@pytest.fixture
def podman(place: Path) -> Iterator[Podman]:
    with running(place) as run:
        yield run


@pytest.mark.parametrize("user_namespace", [False, True], ids=["", "user-namespace"])
@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_dockers_line(daemon: Daemon, runtime: str, user_namespace: bool, podman: Podman) -> None:
    done = podman(runtime, *printed_binds(daemon), user_namespace=user_namespace)
    assert done.returncode == 0, done.stderr.decode()
    check_report(done.stdout, node="caller" if user_namespace else "own")


# crun with a user namespace enters the bundle before the hook, and Podman's is closed to it.
ENGINES = pytest.mark.parametrize(
    ("runtime", "user_namespace"),
    [("runc", False), ("runc", True), ("crun", False)],
    ids=["runc", "runc-user-namespace", "crun"],
)


@ENGINES
def test_cdi(
    daemon: Daemon, runtime: str, user_namespace: bool, place: Path, podman: Podman
) -> None:
    pylxcfs(daemon, "cdi", "install", "--directory", str(place / "cdi"))
    device = "--device=pylxcfs.io/view=all"
    done = podman(runtime, device, user_namespace=user_namespace)
    assert done.returncode == 0, done.stderr.decode()
    check_report(done.stdout, everything=True)


@ENGINES
def test_the_annotation(
    daemon: Daemon, runtime: str, user_namespace: bool, place: Path, podman: Podman
) -> None:
    pylxcfs(daemon, "hooks", "install", "--directory", str(place / "hooks.d"))
    options = [f"--hooks-dir={place}/hooks.d", "--annotation=io.pylxcfs.view=all"]
    done = podman(runtime, *options, user_namespace=user_namespace)
    assert done.returncode == 0, done.stderr.decode()
    check_report(done.stdout, everything=True)


def test_without_the_annotation_nothing_is_bound(
    daemon: Daemon, place: Path, podman: Podman
) -> None:
    pylxcfs(daemon, "hooks", "install", "--directory", str(place / "hooks.d"))
    argv = ("/bin/sh", "-c", "grep -c fuse.pylxcfs /proc/self/mountinfo")
    done = podman("runc", f"--hooks-dir={place}/hooks.d", argv=argv)
    assert done.stdout == b"0\n", done.stderr.decode()
