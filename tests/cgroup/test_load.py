"""Load of real threads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pylxcfs.sources.averages import STEP_NS
from pylxcfs.sources.loadavg import Counting, Sampler
from pylxcfs.sources.procfs import HostFiles
from tests.cgroup.processes import command_of
from tests.conftest import require, run_name, wait_until
from tests.kit.cgroups import Cgroup, is_v2, remove_directory
from tests.kit.container import Container
from tests.kit.gate import Gate

SPIN = "while :; do :; done"
SLEEP = """
import threading
threads = [threading.Thread(target=threading.Event().wait, daemon=True) for _ in range(4)]
for thread in threads:
    thread.start()
input()
"""
MANY = 3000


@pytest.fixture
def count(hierarchies):
    """Count the threads of a container at once."""

    def count(container):
        place = hierarchies.thread_place(container.paths())
        counting = Counting(place, "/proc", hierarchies)
        for _ in counting.files:
            pass
        return counting.result

    return count


def finish(sampler):
    """Do everything that is due."""
    for _ in sampler.steps():
        pass


class Clock:
    """CLOCK_BOOTTIME, which a test sets forward."""

    def __init__(self):
        self.now_ns = HostFiles().now_ns()

    def __call__(self):
        return self.now_ns


def test_spinning_threads_are_load_and_sleeping_ones_are_not(
    make_container, make_registry, hierarchies, count
):
    clock = Clock()
    sampler = Sampler(hierarchies, now_ns=clock)
    registry = make_registry(want_load=sampler.want)
    made = make_container()
    container = registry.get(registry.identify(made.pid), made.pid)
    wait_until(lambda: count(container).running == 0, what="the init to wait")
    assert (count(container).total, count(container).last) == (1, made.pid)
    with made.popen([sys.executable, "-c", SLEEP], stdin=subprocess.PIPE) as sleeping:
        with made.popen(["sh", "-c", SPIN]) as spinning:
            # The init; Python with its threads; a shell; and perhaps nsenter, waiting for each.
            wait_until(lambda: count(container).total >= 7, 60, what="all threads")
            wait_until(lambda: count(container).running == 1, 60, what="one to spin")
            # Before there is a count: all threads, and nothing that takes long to know.
            assert container.load().total >= 7
            assert container.load().averages == (0, 0, 0)
            for _ in range(3):
                finish(sampler)
                clock.now_ns += STEP_NS
            load = container.load()
            assert load.total >= 7
            assert 0 < load.averages[2] < load.averages[1] < load.averages[0] < 1
            # Of the container's own pids, which are small ones.
            assert 1 < load.last_pid < made.pid
            for pid in made.cgroup.pids() - {made.pid}:
                if "while :" in command_of(pid):
                    subprocess.run(["kill", "-9", str(pid)], check=True)
            spinning.wait()
        sleeping.communicate(b"\n")


def test_a_container_that_is_started_again_has_not_the_threads_of_the_one_before(sampler, look_up):
    """Its cgroup has the same path, and was counted a moment ago."""
    name = run_name("again")
    with (
        Cgroup(name=name) as cgroup,
        Container(cgroup=cgroup) as made,
        made.popen(
            ["sh", "-c", "echo; read x"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as beside,
    ):
        beside.stdout.readline()  # it is inside
        assert sampled(sampler, look_up(made.pid)).total > 1
        beside.communicate()
    with Cgroup(name=name) as cgroup, Container(cgroup=cgroup) as made:
        assert sampled(sampler, look_up(made.pid)).total == 1


def sampled(sampler, container):
    """Return the load of a container that is counted now."""
    container.load()
    finish(sampler)
    return container.load()


def test_a_paused_container_had_load(make_container, look_up, count, hierarchies):
    """Docker's pause: the freezer of v1 shows its threads as D, that of v2 as S."""
    made = make_container()
    container = look_up(made.pid)
    if is_v2():
        file, value, thawed = made.cgroup.directory("pids") / "cgroup.freeze", "1", "0"
        freezer = None
    else:
        if "freezer" not in hierarchies.v1:
            require("freezer", "v1's freezer is not mounted")
        place = hierarchies.named("freezer", container.paths())
        freezer = Path(place.own) / made.cgroup.name
        freezer.mkdir()
        file, value, thawed = freezer / "freezer.state", "FROZEN", "THAWED"
    try:
        with subprocess.Popen(made.cgroup.command(["cat"]), stdin=subprocess.PIPE) as process:
            try:
                wait_until(lambda: count(container).total == 2, what="two threads")
                if freezer is not None:
                    (freezer / "cgroup.procs").write_text(str(process.pid))
                file.write_text(value)
                if freezer is not None:
                    wait_until(lambda: file.read_text() == "FROZEN\n", what="a frozen cgroup")
                    status = Path(f"/proc/{process.pid}/stat").read_text()
                    assert status.rpartition(")")[2].split()[0] == "D"
                counted = count(container)
                assert (counted.uninterruptible, counted.total) == (0, 2)
            finally:
                file.write_text(thawed)
    finally:
        if freezer is not None:
            remove_directory(freezer)


def test_threads_in_cgroups_deep_below_count(make_container, make_below, look_up, count):
    made = make_container()
    container = look_up(made.pid)
    deepest = made.cgroup.directory("pids")
    for _ in range(7):
        deepest = make_below(deepest)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        (deepest / "cgroup.procs").write_text(str(process.pid))
        assert count(container).total == 2
        assert count(container).last == max(process.pid, made.pid)


def test_a_container_with_many_cgroups_holds_up_neither_readers_nor_other_containers(
    make_container, make_registry, hierarchies, request
):
    """Any user of a container may make as many as it likes, on a hierarchy that is delegated."""
    gate = Gate()
    sampler = Sampler(hierarchies, gate)
    request.addfinalizer(sampler.close)
    registry = make_registry(want_load=sampler.want)
    large, small = make_container(), make_container()
    top = large.cgroup.directory("pids")
    children = [top / f"child{number}" for number in range(MANY)]
    for child in children:
        child.mkdir()
    try:
        big = registry.get(registry.identify(large.pid), large.pid)
        other = registry.get(registry.identify(small.pid), small.pid)
        sampler.start()
        assert big.load().total == 1
        gate.let(10)
        assert gate.reached.wait(60)
        # The count is stopped at its tenth file, and readers are served.
        assert (big.load().total, big.sampled) == (1, None)
        assert other.load().total == 1
        gate.let(MANY // 4)
        wait_until(lambda: other.sampled is not None, what="the other container's count")
        assert big.sampled is None
        gate.let(10 * MANY)
        wait_until(lambda: big.sampled is not None, 60, what="the large container's count")
        assert big.load().total == 1
    finally:
        gate.let(1 << 30)
        for child in children:
            child.rmdir()
