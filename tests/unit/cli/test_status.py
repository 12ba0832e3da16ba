"""A process that locks the pid file plays keeper, its child server."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pylxcfs.cli import options, status
from pylxcfs.cli.options import Config

ROOT = Path(__file__).parents[3]

#: Locks the pid file, starts a child, prints both pids, and waits for the end of stdin.
KEEPER = """
import os, subprocess, sys
from pylxcfs.keeper import instance
number = instance.claim(sys.argv[1])
child = subprocess.Popen(["sleep", "600"])
while not os.times().user:  # it is counted in ticks
    pass
print(os.getpid(), child.pid, flush=True)
sys.stdin.read()
child.kill()
child.wait()
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr(options, "DEFAULT_FILE", "/nonexistent/pylxcfs.toml")
    return Config(mountpoint="/mnt/x", runtime_dir=str(tmp_path))


@pytest.fixture
def pids(config: Config) -> Iterator[tuple[int, int]]:
    """The pids of a keeper and of its child."""
    command = [sys.executable, "-c", KEEPER, config.pid_path]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        keeper, server = map(int, process.stdout.readline().split())
        yield keeper, server
        process.communicate()


def write(config: Config, **values: Any) -> None:
    state = {"state": "serving", "text": "", "mountpoint": "/mnt/x", "since": 1e9} | values
    Path(config.runtime_dir, "status.json").write_text(json.dumps(state))


def run(config: Config, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "pylxcfs", "status", *words]
    command += ["--runtime-dir", config.runtime_dir]
    return subprocess.run(
        command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, timeout=60
    )


def test_without_an_instance_it_is_stopped(config: Config) -> None:
    write(config, keeper=1, server=1)  # of an instance that has ended
    done = run(config)
    assert done.returncode == 3
    assert done.stdout.startswith("stopped: no instance runs\n")
    assert done.stderr == ""


def test_what_serves_is_shown_with_facts_of_its_processes(
    config: Config, pids: tuple[int, int]
) -> None:
    write(config, keeper=pids[0], server=pids[1], text="2 failures")
    done = run(config)
    assert done.returncode == 0
    first, *lines = done.stdout.splitlines()
    assert first == "serving: 2 failures"
    lines = lines[: lines.index("")] if "" in lines else lines  # containers follow
    facts = dict(line.strip().split(":", 1) for line in lines)
    assert facts["mountpoint"].strip() == "/mnt/x"
    assert facts["since"].strip().startswith("2001-09-")
    for name, pid in zip(("keeper", "server"), pids, strict=True):
        assert facts[name].strip().startswith(f"pid {pid}, running for ")
        assert "MiB, " in facts[name]
        assert "s CPU time" in facts[name]
        assert "open files" in facts[name]


def test_json_has_the_same_in_units_that_the_names_say(
    config: Config, pids: tuple[int, int]
) -> None:
    write(config, keeper=pids[0], server=pids[1])
    done = run(config, "--json")
    assert done.returncode == 0
    state = json.loads(done.stdout)
    assert state["state"] == "serving"
    assert state["since"] == 1e9
    assert (state["keeper"]["pid"], state["server"]["pid"]) == pids
    assert 0 <= state["keeper"]["age_s"] < 600
    assert state["keeper"]["rss_bytes"] > 1 << 20
    assert state["keeper"]["cpu_s"] > 0
    assert state["server"]["open_files"] >= 3


@pytest.mark.parametrize("state", ["starting", "failing", "rescue", "stopping"])
def test_an_instance_that_does_not_serve_has_an_exit_code_of_its_own(
    config: Config, pids: tuple[int, int], state: str
) -> None:
    write(config, keeper=pids[0], server=None, state=state)
    done = run(config)
    assert done.returncode == 6
    assert done.stdout.splitlines()[0] == state


@pytest.mark.parametrize("content", [None, "", "[]", "{", '{"keeper": 1, "state": "serving"}'])
def test_before_the_keeper_has_said_anything_it_is_starting(
    config: Config, pids: tuple[int, int], content: str | None
) -> None:
    if content is not None:
        Path(config.runtime_dir, "status.json").write_text(content)
    done = run(config)
    assert (done.returncode, done.stdout.splitlines()[0]) == (6, "starting")
    assert f"pid {pids[0]}," in done.stdout


def test_a_number_that_is_no_child_of_the_keeper_is_no_server(
    config: Config, pids: tuple[int, int]
) -> None:
    write(config, keeper=pids[0], server=1)
    assert status.gather(config)["server"] is None


def test_it_works_without_a_valid_config_file(config: Config, tmp_path: Path) -> None:
    Path(config.runtime_dir, "config.json").write_bytes(config.document())
    file = tmp_path / "c.toml"
    file.write_text("nonsense")
    done = run(config, "--config", str(file))
    assert done.returncode == 3
    assert "WARNING: the last good configuration is used: " in done.stderr
    assert "is not TOML" in done.stderr


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3661, "1 h 1 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_times_are_short(seconds: float, text: str) -> None:
    facts = {"pid": 1, "age_s": seconds, "rss_bytes": 0, "cpu_s": 0, "open_files": None}
    state = {
        "state": "serving",
        "text": "",
        "mountpoint": "/m",
        "runtime_dir": "/r",
        "since": time.time(),
        "keeper": facts,
        "server": None,
    }
    assert f"running for {text}, " in status.render(state)
