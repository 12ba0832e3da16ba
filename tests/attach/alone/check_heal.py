"""A host of its own: healing, new containers, and `--all`. Run by tests/attach/test_alone.py."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.attach.conftest import MIB, total, views_in
from tests.conftest import wait_until
from tests.kit import fusectl
from tests.kit.daemon import DEADLINE_S, Daemon

#: This is a pid namespace of its own, which the daemon says at its start.
EXPECTED = (r"namespace of its own", r"was aborted", r"the server was ended")


@pytest.fixture
def healing():
    with Daemon("--heal", expect_log=EXPECTED) as running:
        yield running


def abort_own(daemon: Daemon) -> None:
    """End the own mount's connection, as root of a host can."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        if words[4] == str(daemon.mountpoint):
            fusectl.abort(words[2])


def healed(daemon: Daemon) -> int:
    """Return in how many containers healing is over."""
    return daemon.log.count("files attached")


def reads_own(container, mib: int) -> bool:
    try:
        return total(container) == mib * MIB
    except AssertionError:  # its file is dead
        return False


def test_containers_are_healed_after_an_abort(healing, make_container):
    first = make_container(healing.mountpoint, memory=100 * MIB)
    second = make_container(healing.mountpoint, memory=200 * MIB, namespaces=["cgroup"])
    before = set(views_in(first))
    abort_own(healing)
    wait_until(lambda: reads_own(first, 100), DEADLINE_S, what="the first one's files")
    wait_until(lambda: reads_own(second, 200), DEADLINE_S, what="the second one's files")
    wait_until(lambda: healed(healing) == 2, DEADLINE_S, what="the end of healing")
    assert set(views_in(first)) == before
    wait_until(lambda: "a server serves again" in healing.log, what="the keeper to say so")


def test_a_privileged_container_that_unmounts_by_force_harms_no_other(healing, make_container):
    hostile = make_container(healing.mountpoint, memory=100 * MIB)
    other = make_container(healing.mountpoint, memory=200 * MIB)
    hostile.exec(["umount", "-f", "/proc/meminfo"], check=False)
    wait_until(lambda: reads_own(other, 200), DEADLINE_S, what="the other one's files")


def test_a_start_after_everything_was_killed_heals(healing, make_container):
    made = make_container(healing.mountpoint, memory=100 * MIB)
    processes = [psutil.Process(healing.keeper)]
    processes += processes[0].children(recursive=True)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ends with the keeper
            process.kill()
    healing.process.wait(timeout=DEADLINE_S)
    wait_until(lambda: not reads_own(made, 100), DEADLINE_S, what="its files to be dead")
    healing.start()
    healing.wait_ready()
    wait_until(lambda: reads_own(made, 100), DEADLINE_S, what="its files")
    wait_until(lambda: healed(healing) == 1, DEADLINE_S, what="the end of healing")
    assert all(root.startswith("/own/") for root in views_in(made).values())


def test_what_another_instance_serves_is_not_touched(healing, make_container):
    with Daemon(expect_log=EXPECTED) as other:
        made = make_container(other.mountpoint, memory=100 * MIB)
        before = devices_in(made)
        abort_own(healing)
        wait_until(lambda: "a server serves again" in healing.log, what="the next server")
        mine = make_container(healing.mountpoint, memory=200 * MIB)
        assert reads_own(mine, 200)
        assert devices_in(made) == before


def test_new_containers_are_given_their_files(make_container):
    with Daemon("--attach-new", expect_log=EXPECTED) as daemon:
        old = make_container(memory=100 * MIB)
        wait_until(lambda: reads_own(old, 100), DEADLINE_S, what="files in the first container")
        new = [make_container(memory=(200 + i) * MIB) for i in range(5)]
        for i, made in enumerate(new):
            wait_until(lambda: reads_own(made, 200 + i), DEADLINE_S, what="files in a new one")  # noqa: B023
        assert "files attached" in daemon.log


def test_new_containers_with_shared_files_are_given_their_own(make_container):
    with Daemon("--move-new", expect_log=EXPECTED) as daemon:
        shared = daemon.runtime_dir / "caller"
        plain = make_container(memory=100 * MIB)
        made = make_container(shared, memory=200 * MIB)
        before = set(views_in(made))
        assert before
        assert reads_own(made, 200)
        wait_until(
            lambda: all(root.startswith("/own/") for root in views_in(made).values()),
            DEADLINE_S,
            what="its own files",
        )
        assert set(views_in(made)) == before
        assert reads_own(made, 200)
        assert views_in(plain) == {}


def test_all_handles_each_mount_namespace_once(healing, make_container, command):
    made = [make_container(memory=(100 + i) * MIB) for i in range(3)]
    nested = ["unshare", "--pid", "--fork", "sleep", "1000"]  # in the mounts of its container
    deeper = ["unshare", "--pid", "--fork", "--mount", "--mount-proc", "sleep", "1000"]
    with made[0].popen(nested) as same, made[1].popen(deeper) as own:
        wait_until(lambda: own_sleeper(own), what="the nested container")
        done = json.loads(command(healing, "attach", "--all", "--json").stdout)
        assert len(done) == 4  # three, and the nested one with mounts of its own
        assert all({file["what"] for file in one["files"]} == {"attached"} for one in done)
        for i, one in enumerate(made):
            assert reads_own(one, 100 + i)
        done = json.loads(command(healing, "detach", "--all", "--json").stdout)
        assert len(done) == 4
        for process in (same, own):
            os.killpg(process.pid, signal.SIGKILL)
    assert all(not views_in(one) for one in made)


def own_sleeper(process: subprocess.Popen[bytes]) -> bool:
    """Return whether a sleep in mounts of its own runs below a process."""
    found = psutil.Process(process.pid).children(recursive=True)
    around = os.readlink(f"/proc/{process.pid}/ns/mnt")
    sleeping = [child.pid for child in found if child.name() == "sleep"]
    return any(os.readlink(f"/proc/{pid}/ns/mnt") != around for pid in sleeping)


def devices_in(container) -> list[str]:
    """Return the devices of the views in a container."""
    lines = Path(f"/proc/{container.pid}/mountinfo").read_text().splitlines()
    return [words[2] for words in map(str.split, lines) if words[4] in views_in(container)]


def test_a_container_whose_proc_propagates_to_the_host_is_left(healing, command):
    """As after `unshare --propagation unchanged`: its /proc/meminfo is the host's, too."""
    subprocess.run(["mount", "--make-shared", "/proc"], check=True)
    words = ["unshare", "--mount", "--propagation", "unchanged", "--pid", "--fork", "--kill-child"]
    with subprocess.Popen([*words, "sleep", "1000"]) as process:
        try:
            wait_until(lambda: psutil.Process(process.pid).children(), what="the container")
            [sleep] = psutil.Process(process.pid).children()
            done = command(healing, "attach", "--json", "--files", "proc/meminfo", str(sleep.pid))
            [file] = json.loads(done.stdout)[0]["files"]
            assert file["what"] == "left"
            assert "is the host's too" in file["why"]
            assert " /proc/meminfo " not in Path("/proc/self/mountinfo").read_text()
        finally:
            process.kill()
            subprocess.run(["mount", "--make-private", "/proc"], check=True)
