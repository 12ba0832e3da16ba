from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.server import state

CONTENT = {"load": {"4026532180": [0.5, 0.25, 0.125]}, "ledger": {"7": [1, 2, 3]}}


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = str(tmp_path / "state.json")
    state.save(path, CONTENT)
    state.save(path, CONTENT)
    assert state.load(path) == CONTENT
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert os.listdir(tmp_path) == ["state.json"]


def test_without_a_file_it_starts_afresh(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert state.load(str(tmp_path / "state.json")) == {}
    assert not caplog.records


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '{"format": 2}', '{"format": "1"}', "\udcff", "[" * 100_000],
)
def test_a_broken_file_is_a_warning_and_a_fresh_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert state.load(str(path)) == {}
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_directory_in_its_place_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert state.load(str(tmp_path)) == {}
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = str(tmp_path / "state.json")
    state.save(path, CONTENT)
    with pytest.raises(TypeError):
        state.save(path, {"load": {1, 2}})
    assert state.load(path) == CONTENT
    assert os.listdir(tmp_path) == ["state.json"]


@given(st.binary(max_size=40))
def test_any_bytes_load(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any-state.json"
    path.write_bytes(data)
    assert isinstance(state.load(str(path)), dict)


def test_the_format_version_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    state.save(str(path), {})
    assert json.loads(path.read_text()) == {"format": state.FORMAT}
