"""psutil, the way most Python programs look at their machine."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import psutil

from tests.kit.container import Container
from tests.kit.daemon import Daemon

SCRIPT = """
import json, psutil
memory, swap = psutil.virtual_memory(), psutil.swap_memory()
print(json.dumps({
    "total": memory.total, "available": memory.available, "used": memory.used, "free": memory.free,
    "swap": swap.total, "swap_used": swap.used,
    "cpus": psutil.cpu_count(), "rows": len(psutil.cpu_times(percpu=True)),
    "percent": psutil.cpu_percent(0.1), "load": psutil.getloadavg(),
    "disks": sorted(psutil.disk_io_counters(perdisk=True) or {}),
}))
"""


def _psutil(container: Container) -> dict[str, object]:
    env = {**os.environ, "PYTHONPATH": str(Path(psutil.__file__).parents[1])}
    return json.loads(container.exec([sys.executable, "-c", SCRIPT], env=env).stdout)


def test_psutil_sees_the_container(daemon: Daemon) -> None:
    host_loads = [os.getloadavg()]
    with Container(daemon.mountpoint, memory=1 << 30, cpus=1) as container:
        shown = _psutil(container)
    host_loads.append(os.getloadavg())
    assert shown["total"] == 1 << 30
    assert max(shown[name] for name in ("available", "used", "free")) <= 1 << 30
    assert 0 <= shown["swap_used"] <= shown["swap"]
    assert (shown["cpus"], shown["rows"]) == (1, 1)
    assert 0 <= shown["percent"] <= 100
    # getloadavg(3) reads the file in some versions of glibc, and calls sysinfo(2) in others.
    assert all(0 <= load < 10 for load in shown["load"]) or tuple(shown["load"]) in host_loads
