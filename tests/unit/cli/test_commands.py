from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pylxcfs.cli import commands as cli
from pylxcfs.cli import launch
from pylxcfs.cli import options as config
from pylxcfs.cli.options import ALIASES, OPTIONS, Config
from pylxcfs.errors import MountpointError

#: What Incus gives to LXCFS, and what LXCFS's own unit may.
INCUS = "-f -p /r/lxcfs.pid --runtime-dir /r -l --enable-cfs -u -o allow_other,nonempty /mnt/x"


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configurations that `mount` was called with."""
    seen: list[Config] = []
    monkeypatch.setattr(config, "DEFAULT_FILE", "/nonexistent/pylxcfs.toml")
    monkeypatch.setattr(launch, "become_keeper", seen.append)
    return seen


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["pylxcfs", *words])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert isinstance(caught.value.code, int)
        return caught.value.code

    return run


def test_the_call_form_of_lxcfs_works(run: Callable[..., int], mounted: list[Config]) -> None:
    assert run("mount", *INCUS.split()) == 0
    (seen,) = mounted
    assert seen.mountpoint == "/mnt/x"
    assert seen.pid_path == "/r/lxcfs.pid"
    assert seen.runtime_dir == "/r"
    assert seen.loadavg
    assert seen.disable_swap
    assert seen.cpu_view == "quota"
    assert seen.fuse_options == ("allow_other", "nonempty")


def test_every_flag_is_taken(run: Callable[..., int], mounted: list[Config]) -> None:
    for alias in ALIASES:
        for flag in alias.flags:
            assert run("mount", flag) == 0, flag
    for option in OPTIONS:
        for flag in option.flags:
            for form in flag.split("/"):
                values = {"NUMBER": ["7"], "SECONDS": ["7"], "PATH": ["/x"], "OPTIONS": ["debug"]}
                metavar = option.kind.metavar
                value = values.get(metavar, [metavar.split("|")[-1]] if metavar else [])
                assert run("mount", form, *value) == 0, form
                assert option.name in mounted[-1].origin.flags


def test_o_may_be_given_several_times(run: Callable[..., int], mounted: list[Config]) -> None:
    assert run("mount", "-o", "allow_other", "-o", "nonempty,ro") == 0
    assert mounted[0].fuse_options == ("allow_other", "nonempty", "ro")


def test_an_explicit_option_wins_over_an_alias(
    run: Callable[..., int], mounted: list[Config]
) -> None:
    assert run("mount", "-d", "--log-level", "error") == 0
    assert mounted[0].log_level == "error"


def test_debug_is_a_log_level(run: Callable[..., int], mounted: list[Config]) -> None:
    assert run("mount", "-d") == 0
    assert mounted[0].log_level == "debug"


def test_help_names_every_option_with_default_and_variable(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("mount", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    for option in OPTIONS:
        if option.flags:
            assert f"[default: {option.default_text}; {option.env}]" in text, option.name
        for flag in option.flags:
            assert all(form in text for form in flag.split("/")), flag


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mount", "--cache-ttl", "soon"], "'soon' is not a number of seconds, 0 or more"),
        (["mount", "--cpu-view=all"], "'all' is not one of: quota, cpuset"),
        (["mount", "--nonsense"], "No such option '--nonsense'"),
        (["mount", "/a", "/b"], "unexpected extra argument"),
        (["nonsense"], "No such command 'nonsense'"),
        (["show", "proc/meminfo"], "Missing option '--pid'"),
        (["mount", "--config", "/nowhere/x.toml"], "/nowhere/x.toml does not exist"),
    ],
)
def test_bad_usage_is_two_lines_and_exit_code_2(
    run: Callable[..., int],
    mounted: list[Config],
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    assert run(*words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert message in lines[0]
    assert all(line.startswith("pylxcfs: ") for line in lines)
    assert not mounted


def test_what_cannot_be_done_is_two_lines_and_its_exit_code(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Config) -> None:
        raise MountpointError("/x is not empty", "name an empty directory")

    monkeypatch.setattr(launch, "become_keeper", refuse)
    assert run("mount") == 4
    assert capsys.readouterr().err == (
        "pylxcfs: /x is not empty\npylxcfs: name an empty directory\n"
    )


def test_version_goes_to_stdout(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("pylxcfs 0.")


def test_it_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "pylxcfs", "--version"]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, capture_output=True, cwd=root, check=True, timeout=60)
    assert done.stdout.startswith(b"pylxcfs ")
