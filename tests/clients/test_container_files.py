"""What container/ offers names the files that are served, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.kit.container import servable
from tests.kit.daemon import ROOT, Daemon

PLACE = "/var/lib/pylxcfs"
#: runc lets nothing else be mounted over in /proc.
RUNC = {
    f"proc/{name}"
    for name in "cpuinfo diskstats loadavg meminfo slabinfo stat swaps uptime".split()  # noqa: SIM905
}
SYSFS = {"sys/devices/system/cpu", "sys/devices/system/node"}


def _named(path: Path) -> set[str]:
    """Return what a file names below the mountpoint."""
    return {name.rstrip(".") for name in re.findall(rf"{PLACE}/([\w./]+)", path.read_text())}


@pytest.mark.parametrize(
    "name",
    ["docker/README.md", "docker/compose.yaml", "oci/config.fragment.json", "kubernetes/pod.yaml"],
)
def test_engines_on_runc_get_all_that_runc_allows(name: str) -> None:
    assert _named(ROOT / "container" / name) == RUNC | SYSFS


def test_lxc_gets_everything_that_is_served(daemon: Daemon) -> None:
    named = _named(ROOT / "container/lxc/pylxcfs.conf")
    # Pressure of interrupts is there only where the kernel accounts it; vmstat is off by default.
    assert set(servable(daemon.mountpoint)) - {"proc/vmstat"} <= named
    assert named >= RUNC | SYSFS
