from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pylxcfs.cli import launch
from pylxcfs.cli.options import Config, load
from pylxcfs.errors import HostError, UsageError
from pylxcfs.server.settings import Settings, read
from pylxcfs.views import VIEWS


def arguments(argv: list[str]) -> dict[str, str]:
    """Return the keeper's options that take a value."""
    words = argv[5 : argv.index("--")]
    words = [word for word in words if word != "--keep-mounted"]
    return dict(zip(words[::2], words[1::2], strict=True))


def test_the_keeper_gets_its_options() -> None:
    config = load({"watchdog": 3.0, "mountpoint": "/mnt/x"}, {"PYLXCFS_MAX_FAILURES": "9"})
    argv = launch.keeper_argv(config, pid_fd=7, config_fd=8)
    assert argv[1:4] == ["-I", "-S", "-c"]
    assert "--keep-mounted" not in argv
    assert arguments(argv) == {
        "--mountpoint": "/mnt/x",
        "--runtime-dir": "/run/pylxcfs",
        "--pidfile": "/run/pylxcfs/pylxcfs.pid",
        "--pid-fd": "7",
        "--config-fd": "8",
        "--watchdog": "3.0",
        "--max-failures": "9",
        "--files": ",".join(view.host for view in VIEWS),
    }
    kept = launch.keeper_argv(replace(config, keep_mounted=True), pid_fd=7, config_fd=8)
    assert "--keep-mounted" in kept[: kept.index("--")]
    counted = replace(config, metrics_listen="127.0.0.1:9853")
    assert "--metrics" in launch.keeper_argv(counted, pid_fd=7, config_fd=8)
    assert "--metrics" not in argv


def test_the_server_command_ends_in_serve_and_has_no_options() -> None:
    argv = launch.keeper_argv(load({"cache_ttl": 1.0}, {}), pid_fd=7, config_fd=8)
    assert argv[argv.index("--") + 2 :] == ["-P", "-m", "pylxcfs", "serve"]


def test_servers_read_the_document_from_the_descriptor() -> None:
    number = launch.document_fd(load({"cache_ttl": 1.0}, {}))
    assert read(number) == Settings(cache_ttl=1.0)
    assert not os.get_inheritable(number)  # until the keeper gets it
    os.close(number)


@pytest.mark.parametrize(
    ("mountpoint", "runtime_dir", "pidfile", "message"),
    [
        ("/srv/x", "/srv/x", "", "the runtime directory /srv/x lies inside the mountpoint /srv/x"),
        ("/srv/x", "/srv/x/run", "", "directory /srv/x/run lies inside the mountpoint /srv/x"),
        ("/run/x/mnt", "/run/x", "", "mountpoint /run/x/mnt lies inside the runtime directory"),
        ("/", "/run/x", "", "lies inside the mountpoint /"),
        ("/srv/x", "/run/x", "/srv/x/pid", "the pid file /srv/x/pid lies inside the mount"),
        ("/srv/x", "/run/x", "/run/x/caller/pid", "lies inside the mount at /run/x/caller"),
    ],
)
def test_paths_that_a_mount_would_hide_are_refused(
    mountpoint: str, runtime_dir: str, pidfile: str, message: str
) -> None:
    config = Config(mountpoint=mountpoint, runtime_dir=runtime_dir, pidfile=pidfile)
    with pytest.raises(UsageError) as caught:
        launch.check_places(config)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("mountpoint", "runtime_dir", "pidfile"),
    [
        ("/srv/x", "/srv/x.run", ""),
        ("/srv/x", "/srv/y", "/srv/xy.pid"),
        ("/run/pylxcfs-mnt", "/run/pylxcfs", "/run/pylxcfs/caller.pid"),
    ],
)
def test_paths_beside_each_other_are_accepted(
    mountpoint: str, runtime_dir: str, pidfile: str
) -> None:
    launch.check_places(Config(mountpoint=mountpoint, runtime_dir=runtime_dir, pidfile=pidfile))


def test_the_last_good_configuration_is_not_for_a_first_start(tmp_path: Path) -> None:
    config = Config(mountpoint=str(tmp_path / "mnt"), runtime_dir=str(tmp_path / "run"))
    invalid = UsageError("cache_ttl: wrong", "correct it")
    with pytest.raises(UsageError) as caught:
        launch.become_keeper(config, invalid)
    assert caught.value is invalid
    assert list(tmp_path.iterdir()) == []


def test_without_h11_a_service_is_refused_if_it_is_an_option_and_not_for_systemds_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused_next = Config(mountpoint=str(tmp_path), runtime_dir=f"{tmp_path}/run")
    with pytest.raises(UsageError):
        launch.become_keeper(refused_next)
    assert "h11" not in caplog.text
    with pytest.raises(HostError, match="h11"):
        launch.become_keeper(replace(refused_next, resources=True))
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_FDNAMES", "pylxcfs-listen")
    with pytest.raises(UsageError):
        launch.become_keeper(refused_next)
    assert "h11" in caplog.text


@pytest.mark.parametrize(
    ("jobs", "result", "again"),
    [
        ("123 pylxcfs.service stop running\n", "success", False),
        ("123 pylxcfs.service stop running\n", "timeout", False),
        ("123 pylxcfs.service restart running\n", "success", True),
        ("", "success", False),
        ("No jobs running.\n", "success", False),
        ("", "signal", True),
        ("", "exit-code", True),
    ],
)
def test_the_mount_stays_if_another_start_follows(
    jobs: str, result: str, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, stdout=jobs, stderr="")

    monkeypatch.setattr(subprocess, "run", answer)
    monkeypatch.setenv("SERVICE_RESULT", result)
    assert launch._starts_again("pylxcfs.service") is again


def test_a_systemd_that_does_not_answer_leaves_the_mount(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def hang(command: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(command, 5)

    monkeypatch.setattr(subprocess, "run", hang)
    assert launch._starts_again("pylxcfs.service") is True
    assert "the mount stays" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ([], []),
        (["--cgroup"], ["cgroup"]),
        (["--pid", "--fork", "--mount-proc"], ["pid"]),
        (["--cgroup", "--pid", "--fork", "--mount-proc"], ["cgroup", "pid"]),
    ],
)
def test_namespaces_that_hide_containers_are_named(options: list[str], found: list[str]) -> None:
    program = "from pylxcfs.cli import launch; print(launch.own_namespaces())"
    done = subprocess.run(
        ["unshare", *options, sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
    )
    here = launch.own_namespaces()  # of the tests
    assert done.stdout == f"{[kind for kind in ('cgroup', 'pid') if kind in found + here]}\n"
