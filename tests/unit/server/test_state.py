"""The state file, in any condition."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.server import state
from pylxcfs.server.state import StateFile

VALUES = {"load": {"4026532180": [0.5, 0.25, 0.125]}, "ledger": {"7": [1, 2**63 - 1, -3]}}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.levelname for record in caplog.records]


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    file = StateFile(str(path))
    assert file.save(VALUES)
    assert file.save(VALUES)
    assert StateFile(str(path)).load() == VALUES
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["state.json"]


def test_without_a_file_it_starts_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert StateFile(str(tmp_path / "state.json")).load() == {}
    assert not caplog.records


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"format": 2}',
        '{"format": "1"}',
        "\udcff",
        "[" * 100_000,
        '{"format": 1, "a": ' + '{"a":' * 100_000,
        '{"format": 1, "a": Infinity}',
        '{"format": 1, "a": [-Infinity]}',
        '{"format": 1, "a": NaN}',
        '{"format": 1, "a": 1e999}',
        '{"format": 1, "a": 1e30}',
        f'{{"format": 1, "a": {10**30}}}',
        f'{{"format": 1, "a": -{2**63}}}',
        '{"format": 1, "a": ' + "9" * 10_000 + "}",
    ],
    ids=lambda text: text[:30].encode("ascii", "replace"),
)
def test_a_broken_file_is_a_warning_and_a_fresh_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert StateFile(str(path)).load() == {}
    assert warnings(caplog) == ["WARNING"]
    assert len(caplog.records[0].getMessage()) < 300


def test_a_file_of_100_mb_is_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "state.json"
    with open(path, "wb") as file:
        file.truncate(100_000_000)
    assert StateFile(str(path)).load() == {}
    assert warnings(caplog) == ["WARNING"]


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_something_else_in_its_place_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make
) -> None:
    make(tmp_path / "state.json")
    assert StateFile(str(tmp_path / "state.json")).load() == {}
    assert warnings(caplog) == ["WARNING"]


def test_values_that_are_no_json_are_a_bug_and_leave_the_old_file(tmp_path: Path) -> None:
    file = StateFile(str(tmp_path / "state.json"))
    file.save(VALUES)
    with pytest.raises(TypeError):
        file.save({"load": {1, 2}})
    assert file.load() == VALUES
    assert os.listdir(tmp_path) == ["state.json"]


def test_a_full_disk_is_one_warning_and_leaves_the_old_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(old: str, new: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = StateFile(str(tmp_path / "state.json"))
    file.save(VALUES)
    with monkeypatch.context() as patch:
        patch.setattr(state.os, "replace", full)
        for _ in range(3):
            assert not file.save({})
    assert warnings(caplog) == ["WARNING"]
    assert "No space left on device" in caplog.text
    assert file.load() == VALUES
    assert os.listdir(tmp_path) == ["state.json"]
    assert file.save({})
    assert file.load() == {}


def test_without_its_directory_a_save_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert not StateFile(str(tmp_path / "none/state.json")).save(VALUES)
    assert warnings(caplog) == ["WARNING"]


@given(st.binary(max_size=40))
def test_any_bytes_load(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any-state.json"
    path.write_bytes(data)
    assert isinstance(StateFile(str(path)).load(), dict)


def test_the_format_version_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    StateFile(str(path)).save({})
    assert json.loads(path.read_text()) == {"format": state.FORMAT}
