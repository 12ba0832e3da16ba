"""LXC containers with container/lxc/cgroup.hook: the cgroup tree at /sys/fs/cgroup."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.engines import busybox_root, give, open_directory, programs
from tests.clients.test_lxc import AUTO, lxc
from tests.kit.cgroups import is_v2
from tests.kit.daemon import ROOT, Daemon

#: What a program of the v1 age does, in a shell without $(...) over the whole.
USE = """
set -e
for name in memory pids cpu freezer; do
  own=/sys/fs/cgroup/$name$(sed -n "s/^[0-9]*:$name:\\(.*\\)/\\1/p" /proc/self/cgroup)
  mkdir $own/job
  sleep 1000 >/dev/null 2>&1 &
  echo $! >$own/job/cgroup.procs
  echo $! >/tmp/pid
  cmp $own/job/cgroup.procs /tmp/pid
  [ $name != memory ] || echo 64M >$own/job/memory.limit_in_bytes
  [ $name != memory ] || cat $own/job/memory.limit_in_bytes
  ! echo 1M 2>/dev/null >$own/memory.limit_in_bytes
  kill $!
  wait $! || :
  rmdir $own/job
done
mount | grep -c fuse.pylxcfs
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon("--enable-cgroup") as running:
        yield running


@pytest.mark.parametrize("user_namespace", [False, True], ids=["", "user-namespace"])
@pytest.mark.parametrize("cgroup_namespace", [False, True], ids=["", "cgroup-namespace"])
def test_a_container_makes_limits_and_enters_its_cgroups(
    daemon: Daemon, user_namespace: bool, cgroup_namespace: bool, tmp_path: Path
) -> None:
    programs("lxc", "lxc-start", "lxc-attach", "lxc-stop")
    if is_v2():
        pytest.skip("the hook is for the hierarchies of v1")
    with open_directory() as directory:
        root = busybox_root(directory / "root")
        if user_namespace:
            give(root)
        hook = shutil.copy(ROOT / "container/lxc/cgroup.hook", directory / "hook")
        files = f"{AUTO}\nlxc.hook.mount = {hook} {daemon.mountpoint}\n"
        if not cgroup_namespace:
            files += f"lxc.namespace.keep = cgroup{'' if user_namespace else ' user'}\n"
        with lxc(directory, root, files, user_namespace=user_namespace) as attach:
            done = subprocess.run(
                [*attach, "/bin/sh", "-c", USE], capture_output=True, timeout=120, text=True
            )
            assert done.returncode == 0, done.stderr
            limit, mounts = done.stdout.split()
            assert limit == str(64 << 20)
            assert int(mounts) >= 5
