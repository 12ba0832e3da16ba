"""BusyBox, whose applets read in their own way, some of them through sysinfo(2)."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable

from tests.clients.conftest import MEMORY
from tests.kit.container import Container
from tests.kit.daemon import Daemon
from tests.kit.wellformed import check, cpu_numbers


def test_cat_reads_every_file_whole(small: Container, program: Callable[[str], str]) -> None:
    busybox = program("busybox")
    for name in ("meminfo", "cpuinfo", "stat", "uptime", "loadavg", "swaps", "diskstats"):
        check(f"proc/{name}", small.exec([busybox, "cat", f"/proc/{name}"]).stdout)
        # Byte by byte, in one snapshot.
        pieces = small.exec([busybox, "dd", f"if=/proc/{name}", "bs=7"]).stdout
        check(f"proc/{name}", pieces)


def test_free_prints_no_wrapped_numbers(small: Container, program: Callable[[str], str]) -> None:
    # Totals are sysinfo's, so the host's; the rest comes from meminfo. Together they must do.
    lines = small.exec([program("busybox"), "free", "-k"]).stdout.decode().splitlines()
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 10
    for line in lines[1:]:
        assert all(0 <= int(number) <= host for number in re.findall(r"\d+", line)), lines
    assert int(lines[1].split()[-1]) <= MEMORY >> 10, "available is meminfo's"


def test_top_shows_memory_and_time(small: Container, program: Callable[[str], str]) -> None:
    busybox = program("busybox")
    for _ in range(5):
        text = _top(small, busybox)
        memory = re.search(r"Mem: (\d+)K used, (\d+)K free", text)
        assert memory is not None, text
        assert int(memory[1]) + int(memory[2]) == MEMORY >> 10
        shares = re.search(r"CPU: (.*)", text)
        assert shares is not None, text
        parts = [float(part) for part in re.findall(r"([\d.]+)%", shares[1])]
        # BusyBox cuts each share down to a whole number.
        assert 100 - len(parts) < sum(parts) <= 100, text
        # Longer than a text lives, so that top's first reading makes the next one.
        small.exec([busybox, "sleep", "0.2"])


def _top(container: Container, busybox: str) -> str:
    """Run top, which compares two readings of stat, 100 ms apart.

    Of a text that grows the kernel is told the size first: both could be the same text then.
    """
    while True:
        size = len(container.read("/proc/stat"))
        text = container.exec([busybox, "top", "-b", "-n1"]).stdout.decode()
        if len(container.read("/proc/stat")) == size:
            return text


def test_uptime_and_nproc_run(small: Container, program: Callable[[str], str]) -> None:
    busybox = program("busybox")
    assert b"load average" in small.exec([busybox, "uptime"]).stdout
    # A quota narrows no affinity, which is all that nproc asks.
    assert int(small.exec([busybox, "nproc"]).stdout) == len(os.sched_getaffinity(0))


def test_nproc_follows_a_cpuset(daemon: Daemon, program: Callable[[str], str]) -> None:
    first = min(os.sched_getaffinity(0))
    with Container(daemon.mountpoint, cpuset=str(first)) as container:
        assert container.exec([program("busybox"), "nproc"]).stdout == b"1\n"
        assert cpu_numbers("proc/stat", container.read("/proc/stat")) == [first]


def test_a_script_that_rereads_through_one_descriptor(small: Container) -> None:
    script = """
import os
fd = os.open("/proc/meminfo", os.O_RDONLY)
for _ in range(50):
    os.lseek(fd, 0, os.SEEK_SET)
    text = b""
    while part := os.read(fd, 100):
        text += part
    assert text.startswith(b"MemTotal:") and text.endswith(b"\\n"), text
"""
    small.exec([sys.executable, "-S", "-E", "-c", script])
