"""Settings: read again after a write to one of their files, and only then."""

from __future__ import annotations

import gc
import os
import re
from pathlib import Path

import pytest

from pylxcfs.sources import settings
from pylxcfs.sources.kept import KeptFile
from pylxcfs.sources.settings import Setting, Writes


class Counted:
    """A setting of two files, and how often it was computed."""

    def __init__(self, directory: Path, writes: Writes) -> None:
        self.paths = [directory / "max", directory / "period"]
        for path in self.paths:
            path.write_text("1")
        self.files = [KeptFile(str(path)) for path in self.paths]
        self.times = 0
        self.setting = Setting(writes, self.files, self._compute)

    def _compute(self) -> list[bytes | None]:
        self.times += 1
        return [file.read() for file in self.files]


@pytest.fixture
def writes() -> Writes:
    return Writes()


@pytest.fixture
def counted(tmp_path: Path, writes: Writes) -> Counted:
    return Counted(tmp_path, writes)


def test_its_inotify_instance_stayed_until_the_collector_came(tmp_path: Path) -> None:
    # A user has 128 instances; without one, limits were read at each rendering.
    gc.collect()
    gc.disable()
    try:
        before = os.listdir("/proc/self/fd")
        writes = Writes()
        watch = writes.watch(str(tmp_path))
        assert watch is not None
        del writes, watch
        assert os.listdir("/proc/self/fd") == before
    finally:
        gc.enable()


def test_computes_twice_and_then_believes(counted: Counted) -> None:
    # The first time nothing is watched yet.
    for _ in range(5):
        assert counted.setting.get() == [b"1", b"1"]
    assert counted.times == 2


@pytest.mark.parametrize("which", [0, 1])
def test_a_write_to_any_file_shows_at_once(counted: Counted, which: int) -> None:
    for _ in range(3):
        counted.setting.get()
    for value in (b"2", b"3"):
        counted.paths[which].write_bytes(value)
        assert counted.setting.get()[which] == value
    times = counted.times
    counted.setting.get()
    assert counted.times == times


def test_a_write_elsewhere_costs_nothing(tmp_path: Path, writes: Writes) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = Counted(tmp_path / "a", writes), Counted(tmp_path / "b", writes)
    for counted in (one, other, one, other):
        counted.setting.get()
    for number in range(3):
        other.paths[0].write_text(str(number))
        assert other.setting.get()[0] == str(number).encode()
        one.setting.get()
    assert one.times == 2


def test_settings_of_one_file_are_told_of_the_same_write(tmp_path: Path, writes: Writes) -> None:
    path = tmp_path / "max"
    path.write_text("1")
    file = KeptFile(str(path))
    several = [Setting(writes, [file], file.read) for _ in range(3)]
    for setting in several * 2:
        setting.get()
    del several[0]
    gc.collect()
    path.write_text("2")
    assert [setting.get() for setting in several] == [b"2", b"2"]


def test_a_missing_file_is_looked_for_again(
    tmp_path: Path, writes: Writes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pylxcfs.sources.kept._ABSENT_SECONDS", 0.0)
    file = KeptFile(str(tmp_path / "max"))
    setting = Setting(writes, [file], file.read)
    for _ in range(3):
        assert setting.get() is None
    (tmp_path / "max").write_text("5")
    assert setting.get() == b"5"


def test_more_events_than_are_looked_at(
    tmp_path: Path, writes: Writes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "_MOST_EVENTS", 16)
    many = []
    for number in range(100):
        path = tmp_path / str(number)
        path.write_text("1")
        file = KeptFile(str(path))
        many.append((path, Setting(writes, [file], file.read)))
    for _ in range(2):
        for _, setting in many:
            setting.get()
    for path, _ in many:
        path.write_text("2")
    # The last one first: its event is behind those of all others.
    assert {setting.get() for _, setting in reversed(many)} == {b"2"}


def test_lost_events_count_as_writes_to_all(counted: Counted, writes: Writes) -> None:
    for _ in range(2):
        counted.setting.get()
    writes._note(settings._EVENT.pack(-1, 0x4000, 0, 0))
    counted.setting.get()
    assert counted.times == 3


def test_believes_nothing_for_ever(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_BELIEVED_S", 0.0)
    for _ in range(4):
        counted.setting.get()
    assert counted.times == 4


@pytest.mark.parametrize("call", ["inotify_init1", "inotify_add_watch"])
def test_without_watches_it_reads_each_time_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    class Refusing:
        def __getattr__(self, name: str) -> object:
            return (lambda *_: -1) if name == call else getattr(settings.ctypes.CDLL(None), name)

    monkeypatch.setattr(settings, "_libc", Refusing())
    counted = Counted(tmp_path, Writes())
    for _ in range(4):
        counted.setting.get()
    assert counted.times == 4
    assert re.search(r"raise fs\.inotify\.max_user_\w+", caplog.text)
    assert len(caplog.records) == 1


def test_watches_end_with_what_they_were_for(counted: Counted, writes: Writes) -> None:
    for _ in range(2):
        counted.setting.get()
    info = Path(f"/proc/self/fdinfo/{writes._fd}")
    assert info.read_text().count("inotify wd:") == 2
    del counted.setting
    gc.collect()
    assert info.read_text().count("inotify wd:") == 0


def test_files_of_many_levels_do_not_stay_open(tmp_path: Path, writes: Writes) -> None:
    paths = [tmp_path / f"{level}" for level in range(128)]
    for path in paths:
        path.write_text("1")
    files = [KeptFile(str(path)) for path in paths]
    setting = Setting(writes, files, lambda: [file.read() for file in files])
    before = len(os.listdir("/proc/self/fd"))
    for value in (b"1", b"2", b"3"):
        paths[-1].write_bytes(value)
        assert setting.get()[-1] == value
        assert len(os.listdir("/proc/self/fd")) - before == settings._MOST_OPEN


def test_what_cannot_be_computed_is_tried_again(tmp_path: Path, writes: Writes) -> None:
    path = tmp_path / "max"
    path.write_text("x")
    file = KeptFile(str(path))
    setting = Setting(writes, [file], lambda: int(os.fsdecode(file.read() or b"")))
    for _ in range(3):
        with pytest.raises(ValueError, match="invalid literal"):
            setting.get()
    path.write_text("7")
    assert setting.get() == 7
