"""Sampling the load of containers."""

from __future__ import annotations

import pytest

from pylxcfs.sources.averages import STEP_NS, Averages, LoadState
from pylxcfs.sources.containers import ContainerSource
from pylxcfs.sources.loadavg import Count, Sampler

START = 1000 * STEP_NS
FIRST = (164 / 2048, 34 / 2048, 11 / 2048)


@pytest.fixture
def host(tree):
    tree.v2("pids")
    tree.cgroup("c", {"cgroup.threads": ""})
    tree.process(7, "0::/c\n")
    return tree


def thread(tree, number, state, inside=0, name="sh"):
    text = f"{number} ({name}) {state} 1 2 3 4 5 6 7 8 9\n"
    tree.write(f"proc/{number}/task/{number}/stat", text)
    tree.write(f"proc/{number}/status", f"Name:\tsh\nNSpid:\t{number}\t{inside}\nNSpgid:\t1\n")


def container(tree):
    made = ContainerSource(tree.hierarchies(), paths={"": "/c"})
    made.load()
    return made


def test_running_and_uninterruptible_threads_count_at_any_depth(host):
    directory = "c"
    for depth in range(12):
        directory += f"/d{depth}"
        host.cgroup(directory, {"cgroup.threads": f"{100 + depth}\n"})
        thread(host, 100 + depth, "RDS"[depth % 3], name="a) S (")
    count = Sampler(host.hierarchies()).count({"": "/c"})
    assert count == Count(running=4, uninterruptible=4, total=12, last=111)


def test_threads_that_have_ended_do_not_count(host):
    host.cgroup("c", {"cgroup.threads": "100\n101\n"})
    thread(host, 100, "R")
    assert Sampler(host.hierarchies()).count({"": "/c"}) == Count(1, 0, 1, 100)


def test_v1_uses_a_hierarchy_that_tells_the_container_from_the_host(tree):
    tree.v1("pids")
    tree.v1("memory")
    tree.cgroup("memory/c", {"tasks": "100\n"})
    thread(tree, 100, "D")
    sampler = Sampler(tree.hierarchies())
    assert sampler.count({"pids": "/", "memory": "/c"}) == Count(0, 1, 1, 100)
    assert sampler.count({"pids": "/", "memory": "/"}) is None


def test_a_container_is_sampled_once_its_load_was_asked_for(host):
    host.cgroup("c", {"cgroup.threads": "100\n"})
    thread(host, 100, "R", inside=42)
    sampler = Sampler(host.hierarchies())
    quiet = ContainerSource(host.hierarchies(), paths={"": "/c"})
    sampler.sample([quiet], START)
    assert quiet.load() is None
    sampler.sample([quiet], START)
    load = quiet.load()
    assert load.averages == FIRST
    assert (load.running, load.total, load.last_pid) == (1, 1, 42)


@pytest.mark.parametrize(("early", "steps"), [(0, 1), (STEP_NS // 5, 1), (STEP_NS // 2, 0)])
def test_a_sample_that_is_early_waits_for_the_next(host, early, steps):
    host.cgroup("c", {"cgroup.threads": "100\n"})
    thread(host, 100, "R")
    sampler = Sampler(host.hierarchies())
    sampled = container(host)
    sampler.sample([sampled], START)
    expected = Averages()
    expected.advance(1)
    for _ in range(steps):
        expected.advance(1)
    sampler.sample([sampled], START + STEP_NS - early)
    assert sampled.load().averages == expected.values()


def test_missed_steps_are_caught_up(host):
    sampled = container(host)
    sampled.load_state = LoadState(Averages((2048, 2048, 2048)), START)
    sampler = Sampler(host.hierarchies())
    sampler.sample([sampled], START + 12 * STEP_NS)
    expected = Averages((2048, 2048, 2048))
    expected.advance(0, 12)
    assert sampled.load().averages == expected.values()
    assert sampled.load().averages[0] == pytest.approx(0.368, abs=0.01)


def test_a_container_that_has_ended_has_no_load(host):
    gone = ContainerSource(host.hierarchies(), paths={"": "/removed"})
    gone.load()
    alive = container(host)
    Sampler(host.hierarchies()).sample([gone, alive], START)
    assert gone.load() is None
    assert alive.load().total == 0


def test_containers_in_one_cgroup_are_counted_once(host, monkeypatch):
    host.cgroup("c", {"cgroup.threads": "100\n"})
    thread(host, 100, "R")
    sampler = Sampler(host.hierarchies())
    looked = []
    state = sampler._state
    monkeypatch.setattr(sampler, "_state", lambda tid: looked.append(tid) or state(tid))
    many = [container(host) for _ in range(5)]
    sampler.sample(many, START)
    assert [made.load().total for made in many] == [1] * 5
    assert looked == ["100"]
    sampler.sample(many, START + STEP_NS)
    assert looked == ["100"] * 2
