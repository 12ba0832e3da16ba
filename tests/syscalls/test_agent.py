"""The agent with real runtimes: what programs are told, and what happens when it is killed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.clients.engines import MEMORY, programs, pylxcfs, remove_cgroups, without_v2
from tests.clients.test_oci import _fill
from tests.conftest import require_fuse, run_name, wait_until
from tests.kit.daemon import DEADLINE_S, Daemon


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    require_fuse()
    with Daemon("--seccomp-agent", expect_log=["seccomp agent has ended"]) as running:
        yield running


def agent_of(daemon: Daemon) -> psutil.Process | None:
    for child in psutil.Process(daemon.keeper).children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "agent" in child.cmdline()[-6:-5]:
                return child
    return None


class Bundle:
    """A container of BusyBox and the program, notified of both calls."""

    def __init__(
        self,
        directory: Path,
        daemon: Daemon,
        caller: Path,
        script: str,
        runtime: str,
        name: str = "syscalls",
    ) -> None:
        programs("clients", "runc", runtime)
        self.cgroup = run_name(name)
        _fill(directory, daemon, self.cgroup, user_namespace=False)
        for applet in ("nproc", "uptime", "free"):
            link = directory / "rootfs/bin" / applet
            if not link.exists():
                os.symlink("busybox", link)
        shutil.copy(caller, directory / "rootfs/bin/caller")
        config = json.loads((directory / "config.json").read_text())
        config["process"]["args"] = ["/bin/sh", "-c", script]
        (directory / "config.json").write_text(json.dumps(config))
        options = ["--no-hook", "--no-mounts", "--syscalls"]
        pylxcfs(daemon, "oci-spec", *options, "--patch", str(directory / "config.json"))
        self.command = [
            *(*without_v2(runtime), runtime, "--root", str(directory / "state")),
            *("run", "-b", str(directory), self.cgroup),
        ]

    def run(self) -> str:
        try:
            done = subprocess.run(
                self.command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
            )
        finally:
            remove_cgroups(self.cgroup)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tmp_path


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_programs_are_told_the_containers_own(daemon, caller, bundle, runtime):
    script = "nproc; busybox free -k; uptime; caller print"
    lines = Bundle(bundle, daemon, caller, script, runtime).run().splitlines()
    assert lines[0] == "1"
    memory = lines[2].split()
    assert int(memory[1]) == MEMORY >> 10
    assert int(memory[2]) + int(memory[3]) <= int(memory[1])  # used and free add up
    assert "up 0 min" in lines[4]
    shown = dict(line.split("=") for line in lines[5:])
    assert int(shown["total"]) == MEMORY
    assert int(shown["affinity"]) >= 8
    assert shown["cpus"] == shown["cpus32"] == "1"
    assert int(shown["total32"]) == MEMORY
    # As without the agent.
    assert shown["bad_pointer"] == shown["bad_mask"] == "EFAULT"
    assert shown["read_only"] == "EFAULT"
    assert shown["short"] == "EINVAL"
    assert shown["narrowed"] == "1"


def test_no_call_is_lost_when_agents_are_killed(daemon, caller, bundle):
    made = Bundle(bundle, daemon, caller, "caller loop 20000", "runc")
    with subprocess.Popen(
        made.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
    ) as process:
        killed = 0
        while process.poll() is None and killed < 10:
            found = agent_of(daemon)
            if found is not None:
                found.send_signal(signal.SIGKILL)
                killed += 1
                wait_until(
                    lambda: (new := agent_of(daemon)) and new.pid != found.pid,  # noqa: B023
                    DEADLINE_S,
                    what="another agent",
                )
        out, _ = process.communicate(timeout=DEADLINE_S)
    remove_cgroups(made.cgroup)
    assert process.returncode == 0, out.decode()
    assert b"done" in out


def test_calls_go_to_the_kernel_once_the_service_is_stopped(caller, bundle):
    with Daemon("--seccomp-agent") as daemon:
        script = "caller loop 100; echo one; sleep 2; caller loop 1000; nproc"
        made = Bundle(bundle, daemon, caller, script, "runc")
        with subprocess.Popen(
            made.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        ) as process:
            lines = [process.stdout.readline() for _ in range(2)]
            daemon.stop()
            out, _ = process.communicate(timeout=DEADLINE_S)
    remove_cgroups(made.cgroup)
    assert lines[1] == b"one\n", lines
    assert process.returncode == 0, out.decode()
    assert int(out.split()[-1]) == len(os.sched_getaffinity(0))
    wait_until(
        lambda: not passing(), DEADLINE_S, what="the end of the process that passes calls on"
    )


def passing() -> list[psutil.Process]:
    return [one for one in psutil.process_iter(["name"]) if one.info["name"] == "pylxcfs-pass"]


def test_a_program_started_by_exec_has_a_listener_of_its_own(daemon, caller, bundle):
    made = Bundle(bundle, daemon, caller, "echo up; sleep 1000", "runc")
    with subprocess.Popen(
        made.command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    ) as process:
        assert process.stdout.readline() == b"up\n"
        runc = made.command[:-4]
        done = subprocess.run(
            [*runc, "exec", made.cgroup, "nproc"], capture_output=True, timeout=DEADLINE_S
        )
        subprocess.run([*runc, "kill", made.cgroup, "KILL"], check=True, timeout=DEADLINE_S)
    remove_cgroups(made.cgroup)
    assert done.stdout == b"1\n", done.stderr.decode()
