"""`pylxcfs install` and `uninstall`, below a directory."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pylxcfs.cli import install, manpage, options
from pylxcfs.cli.commands import cli
from pylxcfs.errors import HostError, UsageError

ROOT = Path(__file__).parents[3]
SYSTEM = ROOT / "systemd" / "pylxcfs.service"


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Run a command with --root."""

    def command(*words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pylxcfs", *words, "--root", str(tmp_path / "root")],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    return command


def files_below(directory: Path) -> set[str]:
    return {f"/{path.relative_to(directory)}" for path in directory.rglob("*") if not path.is_dir()}


CONFIG = "/etc/pylxcfs.toml"
UNIT = "/etc/systemd/system/pylxcfs.service"
RECORD = "/usr/local/share/pylxcfs/installed.json"


def test_what_is_printed_is_what_is_installed_and_removed(run, tmp_path):
    root = tmp_path / "root"
    told = {line.split()[1] for line in run("install", "--dry-run").splitlines()}
    assert not root.exists()
    run("install")
    assert files_below(root) == told | {RECORD}
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in root.rglob("*") if path.is_file())
    assert {line.split()[0] for line in run("install").splitlines()} == {"keep"}
    removed = {line.split()[1] for line in run("uninstall").splitlines()}
    assert removed == told
    assert list(root.iterdir()) == []
    assert "nothing to remove" in run("uninstall")


def test_a_changed_file_is_left_and_named(run, tmp_path):
    root = tmp_path / "root"
    run("install")
    config = Path(f"{root}{CONFIG}")
    config.write_text("loadavg = false\n")
    assert f"leave  {CONFIG} (it was changed; --force replaces it)" in run("install")
    assert f"leave  {CONFIG} (it was changed; remove it by hand)" in run("uninstall")
    assert files_below(root) == {CONFIG}
    assert config.read_text() == "loadavg = false\n"
    assert f"leave  {CONFIG} (it was there before" in run("install")
    run("install", "--force")
    assert config.read_text() == install.config_example()


def test_what_was_there_before_is_neither_replaced_nor_removed(run, tmp_path):
    unit = Path(f"{tmp_path}/root{UNIT}")
    unit.parent.mkdir(parents=True)
    unit.write_text("# mine\n")
    assert f"leave  {UNIT} (it was there before" in run("install")
    run("uninstall")
    assert unit.read_text() == "# mine\n"


def test_a_new_version_replaces_and_removes_what_the_one_before_wrote(tmp_path):
    place = install.Place("/usr", str(tmp_path))
    install.install({"/a/x": b"1", "/a/y": b"1"}, place, force=False, dry_run=False)
    steps = install.install({"/a/x": b"2"}, place, force=False, dry_run=False)
    assert [str(step) for step in steps] == ["write  /a/x", "remove /a/y"]
    assert (tmp_path / "a/x").read_bytes() == b"2"
    install.uninstall(place, dry_run=False)
    assert list(tmp_path.iterdir()) == []


def test_an_enabled_unit_is_not_removed(run, tmp_path):
    run("install")
    units = Path(f"{tmp_path}/root{UNIT}").parent
    for target, unit in (("multi-user", "pylxcfs.service"), ("sockets", "pylxcfs.socket")):
        wants = units / f"{target}.target.wants"
        wants.mkdir()
        (wants / unit).symlink_to(units / unit)
        run("uninstall", code=3)
        assert (units / unit).exists()
        (wants / unit).unlink()


def test_a_package_has_its_unit_below_the_prefix(run, tmp_path):
    run("install", "--prefix", "/usr", "--command", "/usr/bin/pylxcfs")
    unit = (tmp_path / "root/usr/lib/systemd/system/pylxcfs.service").read_text()
    assert "ExecStart=/usr/bin/pylxcfs mount --heal\n" in unit
    assert "ExecStopPost=/usr/bin/pylxcfs unmount --unless-restart %n\n" in unit


def test_the_unit_is_that_of_the_repository():
    assert install.unit("pylxcfs") == SYSTEM.read_text()
    paths = install.unit("/opt/x y/pylxcfs")
    assert len(re.findall(r"^Exec\w+=/opt/x y/pylxcfs ", paths, re.MULTILINE)) == 2


@pytest.mark.parametrize(
    ("path", "word"),
    [("/usr/bin/pylxcfs", "/usr/bin/pylxcfs"), ("/a b/c", "'/a b/c'"), ("/100%/c", "/100%%/c")],
)
def test_a_path_is_a_word_for_systemd(path, word):
    assert install._word(path) == word


def test_the_example_has_every_option_and_its_default(tmp_path):
    text = install.config_example()
    assert tomllib.loads(text) == {}
    config = tmp_path / "config.toml"
    config.write_text(re.sub(r"^#(\w+ = )", r"\1", text, flags=re.MULTILINE))
    assert set(tomllib.loads(config.read_text())) == {option.name for option in options.OPTIONS}
    with_it, without = options.load({}, {}, str(config)), options.load({}, {}, None)
    for name in {option.name for option in options.OPTIONS} - {"pidfile"}:
        assert getattr(with_it, name) == getattr(without, name), name
    assert with_it.pid_path == without.pid_path


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completions_are_for_our_command(shell):
    text = install.completion(cli, shell)
    assert "_PYLXCFS_COMPLETE" in text
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=text, text=True, check=True)


def test_the_man_page_is_that_of_the_docs(run, tmp_path):
    run("install")
    page = (tmp_path / "root/usr/local/share/man/man8/pylxcfs.8").read_text()
    assert page == manpage.page()


def test_a_prefix_is_absolute():
    with pytest.raises(UsageError, match="not absolute"):
        install.Place("usr", "")


def test_a_broken_record_is_named(tmp_path):
    place = install.Place("/usr", str(tmp_path))
    record = Path(place.on_disk(place.record))
    record.parent.mkdir(parents=True)
    record.write_text("{")
    with pytest.raises(HostError, match=r"installed\.json"):
        install.uninstall(place, dry_run=False)


def test_the_wheel_has_the_unit(tmp_path):
    """Setuptools comes with the build; without it there is nothing to test."""
    pytest.importorskip("setuptools")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("pylxcfs", "systemd"):
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=skip)
    build = "import setuptools.build_meta as b, sys; print(b.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    if "licen" in done.stderr and done.returncode != 0:
        pytest.skip("setuptools is older than 77")
    assert done.returncode == 0, done.stderr
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        assert file.read("pylxcfs/cli/pylxcfs.service") == SYSTEM.read_bytes()
        names = set(file.namelist())
        assert {"pylxcfs/cli/pylxcfs.socket", "pylxcfs/resources/openapi.json"} <= names
