from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pylxcfs.cli import launch
from pylxcfs.cli import options as config
from pylxcfs.keeper.settings import parse
from pylxcfs.server import command as servecommand


def server_words(argv: list[str]) -> list[str]:
    return argv[argv.index("serve", argv.index("--")) + 1 :]


def test_the_keeper_gets_its_options_and_the_server_what_was_given() -> None:
    flags = {
        "cache_ttl": 0.5,
        "disable_swap": True,
        "loadavg": False,
        "watchdog": 3.0,
        "fuse_options": ("nonempty", "ro"),
        "mountpoint": "/ignored",
    }
    settings = config.load(flags, {"PYLXCFS_MAX_FAILURES": "9"})
    argv = launch.keeper_argv(settings, "/mnt/x", 7)
    assert argv[1:4] == ["-I", "-S", "-c"]
    keeper = parse(argv[5:])
    assert keeper.mountpoint == "/mnt/x"
    assert keeper.pid_fd == 7
    assert keeper.watchdog == 3.0
    assert keeper.max_failures == 9
    assert keeper.keep_mounted is False
    assert list(keeper.server) == argv[argv.index("--") + 1 :]
    assert server_words(argv) == [
        *("--cache-ttl", "0.5", "--disable-swap", "--disable-loadavg"),
        *("--watchdog", "3.0", "-o", "nonempty,ro", "/mnt/x"),
    ]


def test_the_server_understands_what_the_keeper_hands_on(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("")
    flags = {option.name: option.default for option in config.OPTIONS if option.name != "pidfile"}
    flags |= {"keep_mounted": True, "loadavg": False, "fuse_options": ("ro", "nonempty")}
    settings = config.load(flags, {}, str(path))
    words = server_words(launch.keeper_argv(settings, "/mnt/x", 7))
    fds = ["--connection-fd", "3", "--init-fd", "4", "--heartbeat-fd", "5"]
    assert servecommand.parse([*words, *fds]) == (
        flags | {"mountpoint": "/mnt/x"},
        str(path),
        [3, 4, 5],
    )


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
