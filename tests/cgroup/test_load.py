"""Load of real threads."""

from __future__ import annotations

import subprocess
import sys

from pylxcfs.sources.averages import STEP_NS
from pylxcfs.sources.loadavg import Sampler
from pylxcfs.sources.procfs import HostFiles
from tests.cgroup.processes import command_of
from tests.conftest import run_name, wait_until
from tests.kit.cgroups import Cgroup
from tests.kit.container import Container

SPIN = "while :; do :; done"
SLEEP = """
import threading
threads = [threading.Thread(target=threading.Event().wait, daemon=True) for _ in range(4)]
for thread in threads:
    thread.start()
input()
"""


def test_spinning_threads_are_load_and_sleeping_ones_are_not(make_container, hierarchies, look_up):
    made = make_container()
    sampler = Sampler(hierarchies)
    container = look_up(made.pid)
    wait_until(lambda: sampler.count(container.paths()).running == 0, what="the init to wait")
    count = sampler.count(container.paths())
    assert (count.total, count.last) == (1, made.pid)
    with made.popen([sys.executable, "-c", SLEEP], stdin=subprocess.PIPE) as sleeping:
        with made.popen(["sh", "-c", SPIN]) as spinning:
            # The init; Python with its threads; a shell; and perhaps nsenter, waiting for each.
            wait_until(lambda: sampler.count(container.paths()).total >= 7, 60, what="all threads")
            wait_until(
                lambda: sampler.count(container.paths()).running == 1, 60, what="one to spin"
            )
            container.load()
            now = HostFiles().now_ns()
            for step in range(3):
                sampler.sample([container], now + step * STEP_NS)
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


def test_a_container_that_is_started_again_has_not_the_threads_of_the_one_before(
    hierarchies, look_up
):
    """Its cgroup has the same path, and was counted a moment ago."""
    name = run_name("again")
    sampler = Sampler(hierarchies)
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
    sampler.sample([container], HostFiles().now_ns())
    return container.load()


def test_threads_in_cgroups_deep_below_count(make_container, make_below, hierarchies, look_up):
    made = make_container()
    sampler = Sampler(hierarchies)
    container = look_up(made.pid)
    deepest = made.cgroup.directory("pids")
    for _ in range(7):
        deepest = make_below(deepest)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        (deepest / "cgroup.procs").write_text(str(process.pid))
        assert sampler.count(container.paths()).total == 2
        assert sampler.count(container.paths()).last == max(process.pid, made.pid)
