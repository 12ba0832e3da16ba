from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pylxcfs.cli import options, runtime
from pylxcfs.cli.options import Config, load
from pylxcfs.errors import HostError, UsageError


@pytest.fixture(autouse=True)
def _no_file_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "DEFAULT_FILE", "/nonexistent/pylxcfs.toml")


def resolved(directory: Path, text: str, *, before: str = "") -> tuple[Config, list[str]]:
    """Return the configuration after a reload, and the changes."""
    file = directory / "c.toml"
    file.write_text(before)
    document = runtime.located(load({"disable_swap": True}, {}, str(file))).document()
    file.write_text(text)
    config, changed = runtime.resolve(document, {})
    return config, [str(change) for change in changed]


def test_a_reload_takes_live_options_and_keeps_the_others(tmp_path: Path) -> None:
    config, changed = resolved(tmp_path, "cache_ttl = 2\nmax_failures = 7\ndisable_swap = false\n")
    assert (config.cache_ttl, config.max_failures, config.disable_swap) == (2.0, 5, True)
    assert changed == ["cache_ttl: 0.1 s -> 2 s", "max_failures: 5 -> 7"]


def test_a_key_that_is_removed_takes_the_default_again(tmp_path: Path) -> None:
    config, changed = resolved(tmp_path, "", before="cache_ttl = 2\n")
    assert config.cache_ttl == 0.1
    assert changed == ["cache_ttl: 2 s -> 0.1 s"]


def test_a_second_reload_starts_from_the_same_flags_and_file(tmp_path: Path) -> None:
    config, _ = resolved(tmp_path, "cache_ttl = 2\n")
    again, changed = runtime.resolve(config.document(), {})
    assert again == config
    assert changed == []


def test_a_reload_does_not_see_a_symbolic_link_as_a_change(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    flags = {"mountpoint": str(tmp_path / "link"), "runtime_dir": str(tmp_path / "link" / "run")}
    config = runtime.located(load(flags, {}))
    assert config.mountpoint == str(tmp_path / "real")
    assert config.runtime_dir == str(tmp_path / "real" / "run")
    assert runtime.resolve(config.document(), {}) == (config, [])


def test_a_saved_document_is_the_last_good_configuration(tmp_path: Path) -> None:
    flags = {"runtime_dir": str(tmp_path)}
    runtime.save(load(flags, {"PYLXCFS_CACHE_TTL": "7"}))
    found = runtime.last_good(flags, {})
    assert found is not None
    assert found.cache_ttl == 7
    found = runtime.last_good({}, {"PYLXCFS_RUNTIME_DIR": str(tmp_path)})
    assert found is not None
    assert found.cache_ttl == 7


def test_only_root_may_read_the_document_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    runtime.save(load({"runtime_dir": str(tmp_path)}, {}))
    (file,) = tmp_path.iterdir()
    assert file.name == "config.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_last_good_configuration_is_used_where_the_file_does_not_validate(
    tmp_path: Path,
) -> None:
    file = tmp_path / "c.toml"
    flags = {"runtime_dir": str(tmp_path), "mountpoint": "/mnt"}
    runtime.save(load({**flags, "log_level": "debug"}, {"PYLXCFS_CACHE_TTL": "7"}))
    file.write_text("cache_ttl = 'x'")
    config, invalid = runtime.load_or_last_good({**flags, "watchdog": 9.0}, {}, str(file))
    assert invalid is not None
    assert "cache_ttl" in str(invalid)
    assert (config.cache_ttl, config.log_level) == (7.0, "debug")
    assert config.watchdog == 9.0  # a flag of this start
    # The next reload reads the file again, with the flags of this start.
    file.write_text("cache_ttl = 1")
    after, _ = runtime.resolve(config.document(), {})
    assert (after.cache_ttl, after.watchdog, after.log_level) == (1.0, 9.0, "info")


def test_a_valid_configuration_is_not_looked_up(tmp_path: Path) -> None:
    runtime.save(load({"runtime_dir": str(tmp_path)}, {"PYLXCFS_CACHE_TTL": "7"}))
    config, invalid = runtime.load_or_last_good({"runtime_dir": str(tmp_path)}, {}, None)
    assert invalid is None
    assert config.cache_ttl == 0.1


@pytest.mark.parametrize("content", [None, "", "{}", '{"format": 99}'])
def test_without_a_last_good_configuration_the_error_stays(
    tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UsageError, match="PYLXCFS_CACHE_TTL"):
        runtime.load_or_last_good(
            {"runtime_dir": str(tmp_path)}, {"PYLXCFS_CACHE_TTL": "nan"}, None
        )


def test_a_variable_that_names_no_directory_is_the_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="PYLXCFS_RUNTIME_DIR"):
        runtime.load_or_last_good({}, {"PYLXCFS_RUNTIME_DIR": ""}, None)


@pytest.mark.parametrize("place", ["missing", "file"])
def test_a_runtime_directory_that_cannot_be_written_is_one_line(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError) as caught:
        runtime.save(load({"runtime_dir": str(tmp_path / place)}, {}))
    assert f"{tmp_path / place} cannot be written: " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "--runtime-dir" in caught.value.hint
    assert caught.value.exit_code == 3


def test_a_write_that_fails_leaves_the_last_document(tmp_path: Path) -> None:
    runtime.save(load({"runtime_dir": str(tmp_path)}, {"PYLXCFS_CACHE_TTL": "7"}))
    before = (tmp_path / "config.json").read_bytes()
    # A limit on the size of files makes write(2) fail as a full filesystem does.
    program = (
        "import resource, sys; from pylxcfs.cli import runtime; from pylxcfs.cli.options import *\n"
        "config = Config(runtime_dir=sys.argv[1], cache_ttl=1)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); runtime.save(config)"
    )
    root = Path(__file__).parents[3]
    command = [sys.executable, "-B", "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=60)
    assert f"HostError: the runtime directory {tmp_path} cannot be written" in done.stderr
    assert (tmp_path / "config.json").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
