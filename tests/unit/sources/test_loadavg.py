"""Counting the threads of containers and stepping their load averages."""

from __future__ import annotations

import inspect
import time
from itertools import islice

import pytest

from pylxcfs.errors import Gone
from pylxcfs.sources import loadavg
from pylxcfs.sources.averages import STEP_NS, Averages, LoadState
from pylxcfs.sources.containers import ContainerSource
from pylxcfs.sources.loadavg import Count, Counting, Sampler
from tests.conftest import wait_until
from tests.kit.gate import Gate

START = 1000 * STEP_NS
FIRST = (164 / 2048, 34 / 2048, 11 / 2048)


class Clock:
    """CLOCK_MONOTONIC, as far as the sampler knows."""

    now_ns = START

    def __call__(self):
        return self.now_ns


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def host(tree):
    tree.v2("pids")
    tree.cgroup("c", {"cgroup.threads": ""})
    tree.process(7, "0::/c\n")
    return tree


@pytest.fixture
def files():
    """One entry for each file that a sampler reads."""
    return []


@pytest.fixture
def sampler(host, clock, files):
    return Sampler(host.hierarchies(), lambda: files.append(None), now_ns=clock)


def thread(tree, number, state, inside=0, name="sh"):
    text = f"{number} ({name}) {state} 1 2 3 4 5 6 7 8 9\n"
    tree.write(f"proc/{number}/task/{number}/stat", text)
    tree.write(f"proc/{number}/status", f"Name:\tsh\nNSpid:\t{number}\t{inside}\nNSpgid:\t1\n")


def container(tree, sampler, path="/c", ask=True):
    made = ContainerSource(tree.hierarchies(), paths={"": path}, want_load=sampler.want)
    if ask:
        made.load()
    return made


def finish(sampler):
    """Do everything that is due."""
    for _ in sampler.steps():
        pass


def counted(tree, paths):
    hierarchies = tree.hierarchies()
    place = hierarchies.thread_place(paths)
    counting = Counting(place, str(tree.root / "proc"), hierarchies)
    for _ in counting.files:
        pass
    return counting.result


def test_running_and_uninterruptible_threads_count_at_any_depth(host):
    directory = "c"
    for depth in range(12):
        directory += f"/d{depth}"
        host.cgroup(directory, {"cgroup.threads": f"{100 + depth}\n"})
        thread(host, 100 + depth, "RDS"[depth % 3], name="a) S (")
    count = counted(host, {"": "/c"})
    assert count == Count(running=4, uninterruptible=4, total=12, last=111)


@pytest.mark.parametrize(
    ("state", "uninterruptible"), [("FROZEN\n", 1), ("FREEZING\n", 2), ("THAWED\n", 2)]
)
def test_threads_of_a_paused_container_were_load(tree, state, uninterruptible):
    """v1's freezer: frozen threads are shown as D, and the kernel does not count them."""
    tree.v1("pids")
    tree.v1("freezer")
    tree.cgroup("pids/c", {"tasks": "100\n101\n"})
    tree.cgroup("freezer/c/paused", {"freezer.state": state})
    tree.cgroup("freezer/c", {"freezer.state": "THAWED\n"})
    for number, path in ((100, "/c/paused"), (101, "/c")):
        thread(tree, number, "D")
        tree.write(f"proc/{number}/task/{number}/cgroup", f"8:pids:/c\n6:freezer:{path}\n")
    assert counted(tree, {"pids": "/c"}) == Count(0, uninterruptible, 2, 101)


def test_threads_that_have_ended_do_not_count(host):
    host.cgroup("c", {"cgroup.threads": "100\n101\n"})
    thread(host, 100, "R")
    assert counted(host, {"": "/c"}) == Count(1, 0, 1, 100)


def test_a_list_of_ids_that_comes_in_pieces_is_whole(host, monkeypatch):
    monkeypatch.setattr(loadavg, "_CHUNK", 5)
    host.cgroup("c", {"cgroup.threads": "".join(f"{number}\n" for number in range(95, 105))})
    for number in range(95, 105):
        thread(host, number, "R")
    assert counted(host, {"": "/c"}) == Count(10, 0, 10, 104)


def test_a_cgroup_below_that_is_removed_meanwhile_has_no_threads(host):
    host.cgroup("c/gone", {})
    host.cgroup("c/here", {"cgroup.threads": "100\n"})
    thread(host, 100, "R")
    assert counted(host, {"": "/c"}) == Count(1, 0, 1, 100)


def test_a_cgroup_that_was_removed_is_gone(host):
    host.cgroup("removed", {})
    with pytest.raises(Gone):
        counted(host, {"": "/removed"})


def test_v1_uses_a_hierarchy_that_tells_the_container_from_the_host(tree):
    tree.v1("pids")
    tree.v1("memory")
    tree.cgroup("memory/c", {"tasks": "100\n"})
    thread(tree, 100, "D")
    assert counted(tree, {"pids": "/", "memory": "/c"}) == Count(0, 1, 1, 100)
    assert tree.hierarchies().thread_place({"pids": "/", "memory": "/"}) is None


def test_a_container_is_sampled_once_its_load_was_read(host, sampler, files):
    host.cgroup("c", {"cgroup.threads": "100\n", "pids.current": "1\n"})
    thread(host, 100, "R", inside=42)
    quiet = container(host, sampler, ask=False)
    finish(sampler)
    assert quiet.sampled is None
    assert quiet.load().averages == (0, 0, 0)
    assert not files
    finish(sampler)
    load = quiet.load()
    assert load.averages == FIRST
    assert (load.running, load.total, load.last_pid) == (1, 1, 42)


@pytest.mark.parametrize(("early", "steps"), [(0, 1), (STEP_NS // 5, 1), (STEP_NS // 2, 0)])
def test_a_count_that_is_early_waits_for_the_next_step(host, sampler, clock, early, steps):
    host.cgroup("c", {"cgroup.threads": "100\n"})
    thread(host, 100, "R")
    sampled = container(host, sampler)
    finish(sampler)
    clock.now_ns += STEP_NS - early
    finish(sampler)
    assert sampled.load().averages == Averages().after(1).after(1, steps).values()


def test_steps_are_where_they_would_be_however_late_counts_come(host, sampler, clock):
    """As the kernel's: 5 seconds apart on the whole, with the next count for those missed."""
    host.cgroup("c", {"cgroup.threads": "100\n"})
    sampled = container(host, sampler)
    finish(sampler)
    expected = Averages()
    assert sampled.load().averages == expected.values()
    thread(host, 100, "R")
    for late, steps in (STEP_NS // 3, 1), (3 * STEP_NS + STEP_NS // 2, 3), (4 * STEP_NS, 1):
        clock.now_ns = START + late + STEP_NS
        finish(sampler)
        expected = expected.after(1, steps)
        assert sampled.load().averages == expected.values()


def test_steps_that_were_missed_by_a_restart_are_made_up_for(host, sampler, clock):
    sampled = container(host, sampler, ask=False)
    sampled.take_over_load(LoadState(Averages((2048, 2048, 2048)), START - 12 * STEP_NS))
    finish(sampler)
    assert sampled.load().averages == Averages((2048, 2048, 2048)).after(0, 12).values()
    assert sampled.load().averages[0] == pytest.approx(0.368, abs=0.01)


def test_a_container_that_has_ended_is_dropped(host, sampler):
    host.cgroup("removed", {"cgroup.threads": ""})
    ended = container(host, sampler, "/removed")
    alive = container(host, sampler)
    for file in (host.root / "sys/fs/cgroup/removed").iterdir():
        file.unlink()
    (host.root / "sys/fs/cgroup/removed").rmdir()
    finish(sampler)
    assert list(sampler._wanted) == [alive]
    assert alive.load().total == 0
    with pytest.raises(Gone):
        ended.load()


def test_containers_in_one_cgroup_are_counted_once(host, sampler, clock, files):
    host.cgroup("c", {"cgroup.threads": "100\n"})
    thread(host, 100, "R")
    many = [container(host, sampler) for _ in range(5)]
    finish(sampler)
    assert [made.load().total for made in many] == [1] * 5
    once = len(files)
    late = container(host, sampler)
    finish(sampler)
    assert late.load().total == 1
    assert len(files) == once
    clock.now_ns += STEP_NS
    finish(sampler)
    assert len(files) == 2 * once


def test_another_cgroup_of_the_same_path_is_counted(host, sampler):
    host.cgroup("c", {"cgroup.threads": "100\n"})
    thread(host, 100, "R")
    before = container(host, sampler)
    finish(sampler)
    assert before.load().total == 1
    (host.root / "sys/fs/cgroup/c").rename(host.root / "sys/fs/cgroup/before")
    host.cgroup("c", {"cgroup.threads": ""})
    after = container(host, sampler)
    finish(sampler)
    assert after.load().total == 0


def test_a_count_that_costs_much_is_repeated_later(host, sampler, clock, files, monkeypatch):
    ticks = iter(range(0, 10**15, 10**9))  # each slice costs a second of CPU time
    monkeypatch.setattr(loadavg.time, "thread_time_ns", lambda: next(ticks))
    host.cgroup("c", {"cgroup.threads": "100\n"})
    thread(host, 100, "R")
    sampled = container(host, sampler)
    finish(sampler)
    once = len(files)
    clock.now_ns += 2 * STEP_NS
    finish(sampler)
    assert len(files) == once
    assert sampled.load().averages == Averages().after(1, 3).values()  # it steps all the same
    clock.now_ns += 4 * STEP_NS
    finish(sampler)
    assert len(files) == 2 * once


@pytest.fixture
def large(host):
    """A container with 1,000 child cgroups."""
    for number in range(1000):
        host.cgroup(f"large/{number}", {"cgroup.threads": ""})
    host.cgroup("large", {"cgroup.threads": "", "pids.current": "12\n"})
    return "/large"


def test_a_large_container_holds_up_neither_readers_nor_the_counts_of_others(host, large):
    gate = Gate()
    sampler = Sampler(host.hierarchies(), gate)
    sampler.start()
    big = container(host, sampler, large)
    gate.let(10)
    assert gate.reached.wait(60)
    # It is in the middle of the count, and stays there: no reader waits for it.
    assert big.load().total == 12
    small = container(host, sampler)
    gate.let(300)
    wait_until(lambda: small.sampled is not None, what="the other's count")
    assert big.sampled is None
    gate.let(100_000)
    wait_until(lambda: big.sampled is not None, 60, what="the large one's count")
    assert big.load().total == 0
    sampler.close()


def test_a_count_for_containers_that_have_ended_is_given_up(host, large, sampler, files):
    big = container(host, sampler, large)
    steps = sampler.steps()
    list(islice(steps, 2))
    assert sampler._countings
    read = len(files)
    big.gone = True
    list(steps)
    assert not sampler._countings
    assert len(files) == read
    assert big.sampled is None


def test_an_error_in_one_count_is_not_the_next_ones(host, clock):
    host.cgroup("bad", {"cgroup.threads": "no number\n"})

    failures = []

    def attempt(place, work):
        try:
            work()
        except ValueError as error:
            failures.append((place, error))

    sampler = Sampler(host.hierarchies(), attempt=attempt, now_ns=clock)
    bad, good = container(host, sampler, "/bad"), container(host, sampler)
    sampler.start()
    assert sampler.settle(60)
    sampler._background.request()
    assert sampler.settle(60)
    assert [place for place, _ in failures] == ["loadavg"]
    assert bad.sampled is None
    assert good.sampled is not None
    sampler.close()


def test_averages_after_a_suspend_were_the_threads_of_the_first_count():
    """Each 5 s of suspend were a step with the threads that run at once after it."""
    clock = inspect.signature(Sampler).parameters["now_ns"].default
    assert clock is time.monotonic_ns
