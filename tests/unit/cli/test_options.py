from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.cli import options as config
from pylxcfs.cli.kinds import Address, Choice, FuseOptions, Switch
from pylxcfs.cli.options import BY_NAME, OPTIONS, Config, changes, load
from pylxcfs.errors import DocumentError, UsageError
from pylxcfs.views.model import CpuNumbering, CpuView, SysCpu


@pytest.fixture(autouse=True)
def _no_file_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "DEFAULT_FILE", "/nonexistent/pylxcfs.toml")


def write(directory: Path, text: str) -> str:
    path = directory / "pylxcfs.toml"
    path.write_text(text)
    return str(path)


def test_without_anything_all_is_default() -> None:
    assert load({}, {}) == Config()
    assert Config().mountpoint == "/var/lib/pylxcfs"
    assert Config().pid_path == "/run/pylxcfs/pylxcfs.pid"


def test_flags_win_over_variables_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "cache_ttl = 1\nwatchdog = 1\nrequest_timeout = 1\n")
    env = {"PYLXCFS_CACHE_TTL": "2", "PYLXCFS_WATCHDOG": "2"}
    loaded = load({"cache_ttl": 3.0}, env, path)
    assert (loaded.cache_ttl, loaded.watchdog, loaded.request_timeout) == (3.0, 2.0, 1.0)
    assert loaded.max_failures == Config().max_failures


def test_the_file_may_be_named_by_a_variable(tmp_path: Path) -> None:
    path = write(tmp_path, 'cpu_view = "cpuset"\n')
    assert load({}, {"PYLXCFS_CONFIG": path}).cpu_view == "cpuset"


def test_the_default_file_is_read_if_it_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "DEFAULT_FILE", write(tmp_path, "disable_swap = true\n"))
    assert load({}, {}).disable_swap is True


def test_every_option_can_be_set_in_the_file(tmp_path: Path) -> None:
    lines = []
    for option in OPTIONS:
        if isinstance(option.kind, Switch):
            lines.append(f"{option.name} = {str(not option.default).lower()}")
        elif isinstance(option.kind, Choice):
            lines.append(f'{option.name} = "{option.kind.choices[-1]}"')
        elif isinstance(option.kind, FuseOptions):
            lines.append(f'{option.name} = ["allow_other", "nonempty"]')
        elif isinstance(option.default, str):
            lines.append(f'{option.name} = "/somewhere"')
        else:
            lines.append(f"{option.name} = 77")
    loaded = load({}, {}, write(tmp_path, "\n".join(lines)))
    for option in OPTIONS:
        assert getattr(loaded, option.name) != option.default, option.name
        assert type(getattr(loaded, option.name)) is type(option.default), option.name


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("cache-ttl = 1", "unknown key 'cache-ttl'", "did you mean 'cache_ttl'?"),
        ("mountpiont = '/x'", "unknown key 'mountpiont'", "did you mean 'mountpoint'?"),
        ("[server]", "unknown key 'server'", "valid keys: mountpoint, "),
        ("cache_ttl = '1'", "key 'cache_ttl': '1' is not a time of 0 to 3600 seconds", "--help"),
        ("max_failures = 0", "key 'max_failures': 0 is not a whole number from 1 to", "--help"),
        ("max_failures = 1.5", "key 'max_failures': 1.5 is not a whole number", "--help"),
        ("disable_swap = 1", "key 'disable_swap': 1 is not true or false", "--help"),
        ("cpu_view = 'all'", "key 'cpu_view': 'all' is not one of: quota, cpuset", "--help"),
        ("metrics_listen = 9853", "key 'metrics_listen': '9853' is not ADDRESS:PORT", "--help"),
        ("metrics_listen = 'x:1'", "key 'metrics_listen': 'x:1' is not ADDRESS:PORT", "--help"),
        ("mountpoint = 'here'", "key 'mountpoint': 'here' is not an absolute path", "--help"),
        ("fuse_options = ['allowother']", "did you mean 'allow_other'?", "--help"),
        ("cache_ttl = ", "is not TOML", "write lines such as"),
        (f"cache_ttl = {'9' * 5000}", "is not TOML", "write lines such as"),
        (f"cache_ttl = {'[' * 5000}", "is not TOML", "write lines such as"),
    ],
)
def test_what_is_wrong_in_the_file_is_told(
    tmp_path: Path, text: str, message: str, hint: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load({}, {}, path)
    assert message in str(caught.value)
    assert path in str(caught.value)
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


def test_a_file_that_was_named_must_exist() -> None:
    with pytest.raises(UsageError, match=r"/nowhere/x\.toml does not exist"):
        load({}, {}, "/nowhere/x.toml")


def test_a_bad_variable_is_told_by_its_name() -> None:
    with pytest.raises(UsageError, match="PYLXCFS_MAX_FAILURES: 'many' is not a whole number"):
        load({}, {"PYLXCFS_MAX_FAILURES": "many"})


@pytest.mark.parametrize(("text", "value"), [("1", True), ("yes", True), ("0", False), ("", False)])
def test_switches_in_variables(text: str, value: bool) -> None:
    assert load({}, {"PYLXCFS_KEEP_MOUNTED": text}).keep_mounted is value


def test_fuse_options_are_split_at_commas() -> None:
    loaded = load({}, {"PYLXCFS_FUSE_OPTIONS": "allow_other,entry_timeout=0.5, nonempty"})
    assert loaded.fuse_options == ("allow_other", "entry_timeout=0.5", "nonempty")


def test_the_fuse_option_debug_logs_more_unless_a_flag_says_otherwise() -> None:
    options = {"fuse_options": ("debug",)}
    assert load(options, {}).log_level == "debug"
    assert load({**options, "log_level": "error"}, {}).log_level == "error"


@pytest.mark.parametrize("name", ["cache_ttl", "request_timeout", "watchdog"])
@pytest.mark.parametrize("text", ["nan", "-nan", "inf", "-inf", "1e300", "-1", "3601", "-1e-9"])
def test_times_that_make_no_sense_are_refused_everywhere(
    tmp_path: Path, name: str, text: str
) -> None:
    option = BY_NAME[name]
    message = f"is not a time of {option.kind.accepts}"
    with pytest.raises(ValueError, match=re.escape(message)):
        option.kind.text(text)
    with pytest.raises(UsageError, match=re.escape(message)):
        load({}, {option.env: text})
    with pytest.raises(UsageError, match=re.escape(message)):
        load({}, {}, write(tmp_path, f"{name} = {text}"))


@pytest.mark.parametrize("name", ["max_failures", "max_containers"])
@pytest.mark.parametrize("text", ["0", "-1", "1e3", "nan", "inf", "10000000", "1.0", "true"])
def test_counts_that_make_no_sense_are_refused_everywhere(
    tmp_path: Path, name: str, text: str
) -> None:
    option = BY_NAME[name]
    message = f"is not a whole number from {option.kind.accepts}"
    with pytest.raises(ValueError, match=message):
        option.kind.text(text)
    with pytest.raises(UsageError, match=message):
        load({}, {option.env: text})
    with pytest.raises(UsageError, match=message):
        load({}, {}, write(tmp_path, f"{name} = {text}"))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("cache_ttl", "0", 0.0),
        ("cache_ttl", "3600", 3600.0),
        ("request_timeout", "0.0", 0.0),
        ("watchdog", "0", 0.0),
        ("watchdog", "0.5", 0.5),
        ("watchdog", "1e3", 1000.0),
        ("max_failures", "1", 1),
    ],
)
def test_the_ends_of_ranges_are_accepted(
    tmp_path: Path, name: str, text: str, value: float
) -> None:
    from_variable = load({}, {BY_NAME[name].env: text})
    from_file = load({}, {}, write(tmp_path, f"{name} = {text}"))
    assert getattr(from_variable, name) == getattr(from_file, name) == value
    assert type(getattr(from_file, name)) is type(value)


@pytest.mark.parametrize("text", ["0.1", "0.49"])
def test_a_watchdog_too_short_for_any_server_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"0\.5 to 3600 seconds, or 0"):
        BY_NAME["watchdog"].kind.text(text)


def test_a_hung_server_is_replaced_within_three_seconds_by_default() -> None:
    assert Config().watchdog <= 2


def test_a_document_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = write(tmp_path, "disable_swap = true\n")
    flags = {"cache_ttl": 3.0, "fuse_options": ("ro", "nonempty"), "pidfile": "/p"}
    config = load(flags, {"PYLXCFS_MAX_FAILURES": "9"}, path)
    again = Config.parse(config.document())
    assert again == config
    assert again.origin == config.origin


def test_paths_of_any_bytes_are_in_the_document() -> None:
    config = load({"mountpoint": os.fsdecode(b"/mnt/\xff\xc3\xa9")}, {})
    assert Config.parse(config.document()) == config


def test_a_document_of_another_version_takes_the_defaults() -> None:
    document = json.dumps(
        {
            "format": 1,
            "options": {"cache_ttl": 3, "colour": "red"},
            "origin": {"flags": {"colour": "red"}, "path": None},
        }
    )
    assert Config.parse(document.encode()) == Config(cache_ttl=3.0)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{}",
        b'{"format": 1, "options": {}}',
        b'{"format": 1, "options": {}, "origin": 1}',
        b'{"format": 1, "options": {}, "origin": {"flags": {}, "path": 1}}',
        b'{"format": 1, "options": {"cache_ttl": -1}, "origin": {"flags": {}, "path": null}}',
        b'{"format": 1, "options": {}, "origin": {"flags": {"cache_ttl": "x"}, "path": null}}',
    ],
)
def test_what_is_no_document_is_refused(document: bytes) -> None:
    with pytest.raises(DocumentError):
        Config.parse(document)


def test_equal_configurations_have_no_changes(tmp_path: Path) -> None:
    path = write(tmp_path, "cache_ttl = 0.1\n")
    assert changes(load({}, {}, path), load({}, {})) == []


def test_choices_are_those_that_views_know() -> None:
    for name, enum in (
        ("cpu_view", CpuView),
        ("cpu_numbering", CpuNumbering),
        ("sys_cpu", SysCpu),
    ):
        kind = BY_NAME[name].kind
        assert isinstance(kind, Choice)
        assert kind.choices == tuple(member.value for member in enum)


def test_every_field_but_the_origin_is_an_option() -> None:
    assert [f.name for f in dataclasses.fields(Config)] == [*BY_NAME, "origin"]


@given(st.sampled_from(OPTIONS), st.text())
def test_any_text_is_read_or_refused(option: config.Option, text: str) -> None:
    try:
        value = option.kind.text(text)
    except ValueError:
        return
    assert type(value) is type(option.default)
    option.kind.show(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("127.0.0.1:9853", "127.0.0.1:9853"),
        ("0.0.0.0:1", "0.0.0.0:1"),
        ("[::1]:65535", "[::1]:65535"),
        ("/run/pylxcfs/../pylxcfs/metrics", "/run/pylxcfs/metrics"),
        ("::1:9853", None),
        ("127.0.0.1", None),
        ("127.0.0.1:0", None),
        ("127.0.0.1:65536", None),
        ("127.0.0.1:-1", None),
        ("127.0.0.1:\u0661", None),
        ("[127.0.0.1]:1", None),
        (":9853", None),
        ("metrics", None),
        ("/a\0b", None),
        ("", None),
    ],
)
def test_where_metrics_are_served(text: str, value: str | None) -> None:
    if value is not None:
        assert Address().text(text) == value
    else:
        with pytest.raises(ValueError, match="is not ADDRESS:PORT"):
            Address().text(text)
