"""The keeper's parts that need no mount.

What it does with mounts is in tests/mount.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pylxcfs import __version__
from pylxcfs.keeper import banner, child, keeper, reload, report
from pylxcfs.keeper import settings as keepersettings
from pylxcfs.keeper.sdnotify import Notifier

ROOT = Path(__file__).parents[3]


def test_arguments_are_read_with_their_types() -> None:
    words = (
        "--mountpoint /m --runtime-dir /r --pidfile /r/p --config-fd 9 --watchdog 2.5"
        " --max-failures 3 --keep-mounted --files proc/meminfo,proc/stat -- server -- x"
    )
    settings = keepersettings.parse(words.split())
    assert settings == keepersettings.Settings(
        mountpoint="/m",
        runtime_dir="/r",
        pidfile="/r/p",
        server=("server", "--", "x"),
        config_fd=9,
        files=("proc/meminfo", "proc/stat"),
        watchdog=2.5,
        max_failures=3,
        keep_mounted=True,
    )
    assert settings.caller_mountpoint == "/r/caller"


@pytest.mark.parametrize(
    ("code", "text"),
    [(7, "exit code 7"), (-9, "signal 9, Killed"), (-40, "signal 40, Real-time signal 6")],
)
def test_the_end_of_a_server_is_described(code: int, text: str) -> None:
    assert keeper._describe(code) == text


def test_the_docker_line_survives_a_shell() -> None:
    words = shlex.split(banner.docker_line("/mnt/with blank"))
    assert words[:2] == ["docker", "run"]
    assert "/mnt/with blank/proc/meminfo:/proc/meminfo:ro" in words
    assert "/mnt/with blank/sys/devices/system/cpu:/sys/devices/system/cpu:ro" in words
    assert "--mount" not in words
    words = shlex.split(banner.docker_line("/m", "/with blank/x.sock"))
    place = "type=bind,src=/with blank/x.sock,dst=/run/pylxcfs/resources.sock,ro"
    assert words[words.index("--mount") + 1] == place


def test_the_keeper_loads_the_standard_library_only_and_little_of_it() -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import pylxcfs.keeper.start;"
        "print(*sys.modules)"
    )
    command = [sys.executable, "-I", "-S", "-c", script, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded - set(sys.stdlib_module_names) <= {"__main__", "pylxcfs", "__mp_main__"}
    assert not loaded & {"asyncio", "threading", "subprocess", "logging", "dataclasses", "inspect"}


def test_signals_that_arrive_while_nobody_waits_are_not_lost() -> None:
    """In a process of its own, as signals get blocked."""
    script = """
import os, signal
from pylxcfs.keeper import child
child.block_signals()
number = child.signal_fd()
assert child.read_signals(number) == []
for wanted in (signal.SIGTERM, signal.SIGHUP, child.END_FOR_GOOD):
    os.kill(os.getpid(), wanted)
print(sorted(child.read_signals(number)))
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    expected = sorted([signal.SIGTERM, signal.SIGHUP, signal.SIGRTMIN])
    assert done.stdout == f"{[int(number) for number in expected]}\n"


def test_a_child_is_reaped_with_its_code() -> None:
    assert child.fork(lambda: 7).reap() == 7
    stopped = child.fork(lambda: signal.pause() or 0)
    stopped.send(signal.SIGKILL)
    assert stopped.reap() == -signal.SIGKILL


def test_a_command_that_is_not_there_fails_in_the_child_alone(
    capfd: pytest.CaptureFixture[str],
) -> None:
    pid = os.getpid()
    assert child.fork(lambda: child.execute(["/nonexistent/server"], [])).reap() == 1
    assert os.getpid() == pid
    assert "pylxcfs: [Errno 2]" in capfd.readouterr().err


def test_failures_in_a_row_are_answered_slower_and_slower() -> None:
    row = keeper.Row()
    delays = []
    for count in range(1, 11):
        assert row.add() == count
        delays.append(row.delay)
    assert delays[:4] == [0, 0.05, 0.1, 0.2]
    assert delays == sorted(delays)
    assert delays[-1] == 5
    row.clear()
    assert row.add() == 1
    assert row.delay == 0


def test_the_state_is_a_file_that_others_read(tmp_path: Path) -> None:
    state = report.Report(str(tmp_path), "/mnt/x", Notifier({}))
    state.change(report.SERVING, "serving")
    state.server(17)
    written = json.loads((tmp_path / "status.json").read_text())
    assert time.time() - written.pop("since") < 60
    assert written == {
        "state": "serving",
        "text": "serving",
        "keeper": os.getpid(),
        "server": 17,
        "mountpoint": "/mnt/x",
        "resources": None,
        "version": __version__,
        "counts": {"restarts": 0, "failures": 0, "aborts": 0, "heals": 0},
    }
    state.resources("/run/x.sock")
    assert json.loads((tmp_path / "status.json").read_text())["resources"] == "/run/x.sock"
    state.count(report.ABORTS)
    assert json.loads((tmp_path / "status.json").read_text())["counts"]["aborts"] == 1
    state.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_state_that_cannot_be_written_is_said_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    state = report.Report(str(tmp_path / "gone"), "/mnt/x", Notifier({}))
    state.change(report.SERVING, "serving")
    state.server(17)
    assert capfd.readouterr().err.count("status.json cannot be written: No such file") == 1


def resolver(script: str, config: int) -> reload.Resolver:
    return reload.Resolver([sys.executable, "-S", "-c", script], config)


def test_a_resolver_gets_the_document_and_gives_the_next_one() -> None:
    config = os.memfd_create("config")
    os.write(config, b'{"options": {"x": 1}}')
    script = (
        "import json, sys; d = json.load(sys.stdin); d['options']['x'] += 1;"
        "json.dump(d, sys.stdout); print('<4>pylxcfs: x: 1 -> 2', file=sys.stderr)"
    )
    made = resolver(script, config)
    assert made.end() == 0
    assert made.is_document()
    assert made.lines == ["x: 1 -> 2"]
    reload.replace_document(config, made.document)
    assert json.loads(os.pread(config, 100, 0)) == {"options": {"x": 2}}
    os.close(config)


@pytest.mark.parametrize("output", ["", "[]", "{}", '{"options": 1}', "{" * 10])
def test_output_of_a_resolver_that_is_no_document_is_known(output: str) -> None:
    config = os.memfd_create("config")
    made = resolver(f"print({output!r})", config)
    assert made.end() == 0
    assert not made.is_document()
    os.close(config)
