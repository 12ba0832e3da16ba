"""procps: free, vmstat, uptime and top show the container, not the host."""

from __future__ import annotations

import mmap
import os
import re

from tests.clients.conftest import MEMORY
from tests.conftest import wait_until
from tests.kit.container import Container
from tests.kit.daemon import Daemon


def _free(container: Container) -> dict[str, list[int]]:
    lines = container.exec(["free", "--bytes", "--wide"]).stdout.decode().splitlines()[1:]
    return {line.split(":")[0]: [int(n) for n in line.split(":")[1].split()] for line in lines}


def test_free_shows_the_limit_and_numbers_that_fit_into_it(small: Container) -> None:
    total, used, free, shared, buffers, cache, available = _free(small)["Mem"]
    assert total == MEMORY
    # procps: used is total - available, and what is free is available. Each is rounded to kB.
    assert used + free <= total + 2 * 1024
    # The cache is in use, but for pages that the kernel has counted on a CPU and not yet summed
    # up (MEMCG_CHARGE_BATCH, 64 on each).
    assert buffers + cache <= total - free + 64 * mmap.PAGESIZE * os.cpu_count()
    assert max(shared, available) <= total
    assert free > MEMORY // 2


def test_free_follows_a_limit_that_changes(daemon: Daemon) -> None:
    with Container(daemon.mountpoint, memory=256 << 20) as container:
        assert _free(container)["Mem"][0] == 256 << 20
        container.limits(memory=512 << 20)
        # After at most one --cache-ttl.
        wait_until(lambda: _free(container)["Mem"][0] == 512 << 20, what="the new limit")


def test_free_in_two_containers_at_once(daemon: Daemon) -> None:
    with (
        Container(daemon.mountpoint, memory=128 << 20) as one,
        Container(daemon.mountpoint, memory=192 << 20) as other,
    ):
        assert (_free(one)["Mem"][0], _free(other)["Mem"][0]) == (128 << 20, 192 << 20)


def test_a_host_path_bound_as_containerd_does_shows_the_container(daemon: Daemon) -> None:
    with Container(daemon.mountpoint, bind="host", memory=MEMORY, cpus=1) as container:
        assert _free(container)["Mem"][0] == MEMORY


def test_free_on_the_host_shows_the_host(daemon: Daemon) -> None:
    def total(path: str) -> str:
        with open(path) as file:
            return file.readline()

    assert total(f"{daemon.mountpoint}/proc/meminfo") == total("/proc/meminfo")


def test_vmstat_shows_the_memory_of_the_container(small: Container) -> None:
    text = small.exec(["vmstat", "-s", "-S", "k"]).stdout.decode()
    total = re.search(r"(\d+) k total memory", text, re.IGNORECASE)
    assert total is not None
    assert int(total[1]) * 1000 // (1 << 20) in (MEMORY >> 20, (MEMORY >> 20) - 1)
    row = small.exec(["vmstat", "-w"]).stdout.decode().splitlines()[2].split()
    assert int(row[3]) <= MEMORY >> 10


def test_uptime_is_the_age_of_the_init(small: Container) -> None:
    up = float(small.read("/proc/uptime").split()[0])
    with open("/proc/uptime") as file:
        host = float(file.read().split()[0])
    with open(f"/proc/{small.pid}/stat") as file:
        started = int(file.read().rpartition(")")[2].split()[19])
    age = host - started / os.sysconf("SC_CLK_TCK")
    assert abs(age - up) < 5
    assert host - up > 1
    said = small.exec(["uptime", "--pretty"]).stdout.decode()
    assert re.match(r"up (\d+ minutes?)?$", said.strip()), said


def test_load_averages_are_the_containers_own(small: Container) -> None:
    fields = small.read("/proc/loadavg").split()
    shown = small.exec(["uptime"]).stdout.decode()
    assert re.search(r"load average: \d+\.\d\d, \d+\.\d\d, \d+\.\d\d", shown), shown
    running, total = (int(number) for number in fields[3].split(b"/"))
    # The init, the reader, and nsenter, which waits for it.
    assert running <= total <= 5, fields


def test_top_shows_the_memory_and_the_time_of_the_container(small: Container) -> None:
    env = {**os.environ, "TERM": "dumb", "COLUMNS": "120", "LC_ALL": "C"}
    text = small.exec(["top", "-b", "-n2", "-d0.2"], env=env).stdout.decode()
    last = text[text.rindex("top - ") :]
    memory = re.search(r"MiB Mem : *([\d.]+) total, *([\d.]+) free, *([\d.]+) used", last)
    assert memory is not None, last
    total, free, used = (float(number) for number in memory.groups())
    assert total == MEMORY / (1 << 20)
    assert free + used <= total + 0.2
    shares = re.search(r"%Cpu\(s\): *(.*)", last)
    assert shares is not None, last
    parts = {n: float(v) for v, n in re.findall(r"([\d.]+) (us|sy|ni|id|wa|hi|si|st)", shares[1])}
    assert abs(sum(parts.values()) - 100) < 1, parts
