"""The daemon on eight CPUs and two nodes: programs in a container agree with one another."""

from __future__ import annotations

import re

from tests.kit.container import Container
from tests.kit.daemon import Daemon


def test_lscpu_and_numactl_agree() -> None:
    with (
        Daemon() as daemon,
        Container(daemon.mountpoint, cpuset="3-6", cpus=3.0, memory=512 << 20) as container,
    ):
        shown = container.exec(["lscpu"]).stdout.decode()
        assert re.search(r"^On-line CPU\(s\) list: +3-5$", shown, re.MULTILINE)
        assert re.search(r"^ *NUMA node0 CPU\(s\): +3$", shown, re.MULTILINE)
        assert re.search(r"^ *NUMA node1 CPU\(s\): +4,5$", shown, re.MULTILINE)
        nodes = container.exec(["numactl", "-H"]).stdout.decode()
        assert "node 0 cpus: 3\n" in nodes
        assert "node 1 cpus: 4 5\n" in nodes
        sizes = [int(size) for size in re.findall(r"node \d size: (\d+) MB", nodes)]
        assert 510 <= sum(sizes) <= 512
        container.limits(cpuset="0-7", cpus=None)
        assert container.read("/sys/devices/system/cpu/online") == b"0-7\n"
