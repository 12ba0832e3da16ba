from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pylxcfs.cli import commands, launch, options
from pylxcfs.cli.options import ALIASES, OPTIONS, Config, load
from pylxcfs.errors import MountpointError, UsageError

ROOT = Path(__file__).parents[3]

#: What Incus gives to LXCFS, and what LXCFS's own unit may.
INCUS = "-f -p /r/lxcfs.pid --runtime-dir /r -l --enable-cfs -u -o allow_other,nonempty /mnt/x"


@pytest.fixture(autouse=True)
def _own_world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No config file, no instance; afterwards the log as before."""
    monkeypatch.setattr(options, "DEFAULT_FILE", "/nonexistent/pylxcfs.toml")
    monkeypatch.setenv("PYLXCFS_RUNTIME_DIR", str(tmp_path / "none"))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configurations that `mount` was called with."""
    seen: list[Config] = []

    def record(config: Config, invalid: UsageError | None) -> None:
        assert invalid is None
        seen.append(config)

    monkeypatch.setattr(launch, "become_keeper", record)
    return seen


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["pylxcfs", *words])
        with pytest.raises(SystemExit) as caught:
            commands.main()
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
                values["ADDRESS"] = ["127.0.0.1:9853"]
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
            assert f"default: {option.default_text}; {option.env}]" in text, option.name
        for flag in option.flags:
            assert all(form in text for form in flag.split("/")), flag


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mount", "--cache-ttl", "soon"], "'soon' is not a time of 0 to 3600 seconds"),
        (["mount", "--watchdog=0.1"], "'0.1' is not a time of 0.5 to 3600 seconds, or 0 (never)"),
        (["mount", "--max-failures=0"], "'0' is not a whole number from 1 to 1000"),
        (["mount", "--cpu-view=all"], "'all' is not one of: quota, cpuset"),
        (["mount", "--nonsense"], "No such option '--nonsense'"),
        (["mount", "/a", "/b"], "unexpected extra argument"),
        (["nonsense"], "No such command 'nonsense'"),
        (["show", "proc/meminfo"], "Missing option '--pid'"),
        (["show", "proc/meminfo", "/mnt", "--pid=1"], "unexpected extra argument"),
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
    def refuse(_: Config, __: None) -> None:
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


def test_help_names_every_exit_code(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--help") == 0
    text = capsys.readouterr().out
    for code, meaning in commands.EXIT_CODES.items():
        assert f"  {code}  {meaning}\n" in text
    assert max(map(len, text.splitlines())) <= 100
    assert "resolve" not in text


def pylxcfs(*words: str, document: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run the program as a process, as the keeper does."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "pylxcfs", *words],
        input=document,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
        timeout=60,
    )


def test_it_runs_as_a_module() -> None:
    assert pylxcfs("--version").stdout.startswith(b"pylxcfs ")


def test_resolve_writes_the_document_after_a_reload(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("cache_ttl = 1\n")
    old = load({"disable_swap": True}, {}, str(file))
    file.write_text('cache_ttl = 2\nwatchdog = 9\ncpu_view = "cpuset"\n')
    done = pylxcfs("resolve", document=old.document(), PYLXCFS_RUNTIME_DIR="/run/pylxcfs")
    assert done.returncode == 0
    new = json.loads(done.stdout)["options"]
    assert new == json.loads(old.document())["options"] | {"cache_ttl": 2, "cpu_view": "cpuset"}
    assert done.stderr.decode().splitlines() == [
        "pylxcfs: changed cache_ttl: 1 s -> 2 s",
        "pylxcfs: changed watchdog: 2 s -> 9 s (takes a restart)",
        "pylxcfs: changed cpu_view: quota -> cpuset",
    ]


def test_resolve_says_that_nothing_changed() -> None:
    old = load({"log_level": "info"}, {})
    done = pylxcfs("resolve", document=old.document(), PYLXCFS_RUNTIME_DIR="/run/pylxcfs")
    assert (done.returncode, done.stdout) == (0, old.document())
    assert done.stderr == b"pylxcfs: configuration reloaded: nothing changed\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cache_ttl = nan", "key 'cache_ttl': nan is not a time of 0 to 3600 seconds"),
        ("cache_tll = 1", "did you mean 'cache_ttl'?"),
        (None, "does not exist"),
    ],
)
def test_resolve_refuses_what_does_not_validate(
    tmp_path: Path, text: str | None, message: str
) -> None:
    file = tmp_path / "c.toml"
    file.write_text("")
    old = load({}, {}, str(file))
    file.unlink()
    if text is not None:
        file.write_text(text)
    done = pylxcfs("resolve", document=old.document())
    assert (done.returncode, done.stdout) == (2, b"")
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("pylxcfs: ERROR: configuration not reloaded: ")
    assert message in line


def test_resolve_refuses_what_is_no_document() -> None:
    done = pylxcfs("resolve", document=b"{")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"not a configuration document" in done.stderr
