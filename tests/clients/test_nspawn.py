"""systemd-nspawn, which binds files below /proc in two steps: the mountpoint, and then its files.

Binds below /proc are made after the root was switched. So the mountpoint is bound to a place in the
container first, and that is the source of the others. Directories of /sys are bound before.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.engines import (
    FILES,
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
from tests.kit.cgroups import Cgroup, remove_directory
from tests.kit.daemon import Daemon


@pytest.fixture(scope="module")
def daemon(hiding: Daemon) -> Daemon:
    return hiding


@pytest.fixture
def root() -> Iterator[Path]:
    programs("systemd", "systemd-nspawn")
    with open_directory() as directory:
        busybox_root(directory / "root")
        # nspawn takes a directory for an operating system only with these.
        for name in ("usr", "root", "run", "mnt"):
            (directory / "root" / name).mkdir()
        (directory / "root/etc/os-release").write_text("ID=test\n")
        yield directory / "root"


@pytest.mark.parametrize("user_namespace", [False, True], ids=["", "user-namespace"])
def test_files_in_two_steps(daemon: Daemon, root: Path, user_namespace: bool) -> None:
    binds = [f"--bind-ro={daemon.mountpoint}:/mnt"]
    binds += [f"--bind-ro=/mnt/proc/{name}:/proc/{name}" for name in FILES]
    cpus = "sys/devices/system/cpu"
    binds += [f"--bind-ro={daemon.mountpoint}/{cpus}:/{cpus}"]
    alone = ["--quiet", "--register=no", "--keep-unit", "--as-pid2", "--pipe"]
    if user_namespace:
        give(root)
        alone.append("--private-users={hostID}:{size}".format(**IDS))
    command = ["systemd-nspawn", *alone, f"--directory={root}", *binds, "/bin/sh", "-c", REPORT]
    with Cgroup() as cgroup:
        cgroup.limits(memory=MEMORY, cpus=1)
        try:
            output = cgroup.run(command)
        finally:
            for procs in cgroup.procs:  # what nspawn has made below its own
                for directory, _, _ in os.walk(procs.parent, topdown=False):
                    if directory != str(procs.parent):
                        remove_directory(Path(directory))
            remove_cgroups(cgroup.name)  # in a hierarchy without controllers
    check_report(output, node="mixed")
