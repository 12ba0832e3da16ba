"""bubblewrap: a sandbox without a daemon, which binds files from inside its pid namespace."""

from __future__ import annotations

from collections.abc import Callable

from tests.clients.conftest import MEMORY
from tests.kit.cgroups import Cgroup
from tests.kit.daemon import Daemon


def test_bubblewrap_binds_its_own_node(daemon: Daemon, program: Callable[[str], str]) -> None:
    binds: list[str] = []
    for name in ("meminfo", "stat", "cpuinfo"):
        binds += ["--bind", f"{daemon.mountpoint}/proc/{name}", f"/proc/{name}"]
    sandbox = ["--unshare-pid", "--dev-bind", "/", "/", "--proc", "/proc", *binds]
    count = "grep -c ^processor /proc/cpuinfo; grep -c ^cpu[0-9] /proc/stat"
    script = f"head -n1 /proc/meminfo; {count}"
    with Cgroup() as cgroup:
        cgroup.limits(memory=MEMORY, cpus=1)
        shown = cgroup.run([program("bwrap"), *sandbox, "sh", "-c", script])
    assert shown.split() == [b"MemTotal:", str(MEMORY >> 10).encode(), b"kB", b"1", b"1"]
