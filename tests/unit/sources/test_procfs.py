"""The host's files."""

from __future__ import annotations

import contextlib
import os
import time

import pytest

from pylxcfs.errors import FormatError, Gone, SourceError
from pylxcfs.sources.procfs import HostFiles


def test_files_are_below_the_root(tree):
    tree.write("proc/meminfo", "MemTotal: 1 kB\n")
    host = HostFiles(str(tree.root))
    assert host.read("proc/meminfo") == b"MemTotal: 1 kB\n"
    tree.write("proc/meminfo", "MemTotal: 2 kB\n")
    assert host.read("proc/meminfo") == b"MemTotal: 2 kB\n"


def test_a_missing_file_is_gone_or_none(tree):
    host = HostFiles(str(tree.root))
    for path in ("proc/pressure/irq", "sys/nothing"):
        with pytest.raises(Gone):
            host.read(path)
        assert host.read_optional(path) is None


def test_descriptors_of_proc_are_kept_and_of_sysfs_are_not(tree):
    for number in range(50):
        tree.write(f"sys/file{number}", "x")
    tree.write("proc/meminfo", "x")
    tree.write("proc/pressure/io", "x")
    host = HostFiles(str(tree.root))
    for number in range(50):
        host.read(f"sys/file{number}")
    host.read("proc/meminfo")
    host.read("proc/pressure/io")
    assert open_below(str(tree.root)) == ["proc/meminfo", "proc/pressure/io"]
    host.close()
    assert open_below(str(tree.root)) == []


def open_below(root):
    """Return the files below `root` that this process has open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            target = os.readlink(f"/proc/self/fd/{number}")
            if target.startswith(f"{root}/"):
                found.append(os.path.relpath(target, root))
    return sorted(found)


def test_online_cpus(tree):
    tree.write("sys/devices/system/cpu/online", "0-2,5\n")
    assert HostFiles(str(tree.root)).online_cpus() == (0, 1, 2, 5)


@pytest.mark.parametrize("text", ["", "x\n"])
def test_no_online_cpu_is_an_error(tree, text):
    tree.write("sys/devices/system/cpu/online", text)
    with pytest.raises((SourceError, FormatError)):
        HostFiles(str(tree.root)).online_cpus()


def test_online_cpus_without_sysfs(tree):
    host = HostFiles(str(tree.root))
    with pytest.raises(SourceError) as caught:
        host.online_cpus()
    assert not isinstance(caught.value, Gone)  # no process has ended
    tree.write("proc/stat", "cpu  3 0 0 0\ncpu0 1 0 0 0\ncpu5 2 0 0 0\nintr 1\n")
    assert host.online_cpus() == (0, 5)


def test_this_machine():
    host = HostFiles()
    assert host.read("proc/meminfo").startswith(b"MemTotal:")
    assert host.read("proc/cpuinfo").count(b"processor") >= len(host.online_cpus())
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert before <= host.now_ns() <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def test_listing_a_directory(tree):
    tree.write("sys/devices/system/memory/memory0/state", "online\n")
    tree.write("sys/devices/system/memory/block_size_bytes", "8000000\n")
    host = HostFiles(str(tree.root))
    assert sorted(host.list("sys/devices/system/memory")) == ["block_size_bytes", "memory0"]
    with pytest.raises(Gone):
        host.list("sys/devices/system/node")
    with pytest.raises(SourceError):
        host.list("sys/devices/system/memory/block_size_bytes")
