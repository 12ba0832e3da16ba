"""Personalities belong to threads: one that is 32-bit reads, and no other changes."""

import os
import subprocess

from pylxcfs.sources.personality import Host32, host32, is_32bit
from pylxcfs.sources.procfs import HostFiles
from tests.conftest import wait_until


def test_a_32_bit_process_is_told_from_others() -> None:
    with subprocess.Popen(["setarch", "linux32", "cat"], stdin=subprocess.PIPE) as process:
        wait_until(lambda: is_32bit(process.pid), what="setarch to have set the personality")
        process.terminate()
    assert not is_32bit(os.getpid())
    assert not is_32bit(2**22 + 1)


def test_reading_as_a_32_bit_program_leaves_this_thread_as_it_is() -> None:
    host = Host32()
    assert b"processor" in host.read("proc/cpuinfo")
    assert host.read("proc/uptime")
    host.close()
    assert not is_32bit(os.getpid())


def test_where_both_read_the_same_there_is_no_host_for_32_bits() -> None:
    # x86 prints cpuinfo alike for both; arm64 does not.
    different = "aarch64" in os.uname().machine
    assert (host32(HostFiles()) is not None) == different
