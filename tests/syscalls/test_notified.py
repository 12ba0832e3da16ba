"""The agent without a runtime: programs that install the filter themselves (tests/kit/notified.py).

Also in the virtual machine, where the kernel has no PROCMAP_QUERY and no NS_GET_PID_FROM_PIDNS.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.conftest import require_fuse, wait_until
from tests.kit import notified
from tests.kit.container import Container
from tests.kit.daemon import DEADLINE_S, Daemon
from tests.syscalls.test_agent import agent_of

MEMORY = 64 << 20
#: Prints CPUs and memory; as this thread, by its own number, and as another thread sees it.
PROGRAM = """
import ctypes, os, struct, threading
libc = ctypes.CDLL(None, use_errno=True)
def total():
    info = ctypes.create_string_buffer(128)
    assert libc.sysinfo(info) == 0
    return struct.unpack_from("@q3L", info)[0], struct.unpack_from("@L", info, 32)[0]
def cpus(pid=0):
    return len(os.sched_getaffinity(pid))
print(cpus(), cpus(os.getpid()), total()[1])
main = threading.get_native_id()
thread = threading.Thread(target=lambda: print(cpus(), cpus(main), cpus(threading.get_native_id())))
thread.start(); thread.join()
for pointer in (8, 0, -1):
    assert libc.sysinfo(ctypes.c_void_p(pointer)) == -1 and ctypes.get_errno() == 14, pointer
"""
#: A filter of the program's own beside that of the agent: getppid(2) is EPERM.
OWN_FILTER = """
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
number = {"x86_64": 110, "aarch64": 173}[os.uname().machine]
lines = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in lines))
assert libc.prctl(22, 2, struct.pack("@HP", len(lines), ctypes.addressof(code)), 0, 0) == 0
assert libc.getppid() == -1
print(len(os.sched_getaffinity(0)))
"""
NARROWED = """
import os
cpu = max(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cpu})
print(os.sched_getaffinity(0) == {cpu})
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    require_fuse()
    with Daemon("--seccomp-agent") as running:
        yield running


@pytest.fixture(scope="module")
def small(daemon: Daemon) -> Iterator[Container]:
    with Container(daemon.mountpoint, memory=MEMORY, cpus=1) as container:
        yield container


def run(daemon: Daemon, container: Container, program: str) -> list[str]:
    agent = str(daemon.runtime_dir / "seccomp.sock")
    words = [sys.executable, "-ISE", notified.__file__, agent, sys.executable, "-IS", "-c", program]
    return container.exec(words).stdout.decode().split()


def test_threads_are_told_the_same(daemon: Daemon, small: Container) -> None:
    assert run(daemon, small, PROGRAM) == ["1", "1", str(MEMORY), "1", "1", "1"]


def test_a_filter_of_the_programs_own_stays(daemon: Daemon, small: Container) -> None:
    assert run(daemon, small, OWN_FILTER) == ["1"]


def test_a_mask_that_the_program_set_is_not_widened(daemon: Daemon, small: Container) -> None:
    assert run(daemon, small, NARROWED) == ["True"]


def test_a_nested_pid_namespace_is_a_container_of_its_own(daemon: Daemon, small: Container) -> None:
    nested = 'import os; os.execvp("unshare", ["unshare", "-pf", "nproc"])'
    assert run(daemon, small, nested) == ["1"]


def test_a_listener_whose_programs_have_ended_is_let_go(daemon: Daemon, small: Container) -> None:
    run(daemon, small, NARROWED)

    def threads() -> int:
        agent = agent_of(daemon)
        return agent.num_threads() if agent is not None else 0

    alone = wait_until(threads, DEADLINE_S, what="the agent")
    for _ in range(3):
        run(daemon, small, NARROWED)
    wait_until(lambda: threads() <= alone, DEADLINE_S, what="the end of the listeners' threads")
