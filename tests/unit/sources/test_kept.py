"""Kept descriptors."""

from __future__ import annotations

import errno
import os
import subprocess

import pytest

from pylxcfs.errors import Gone, SourceError
from pylxcfs.sources import kept
from pylxcfs.sources.kept import KeptFile, KeptRecords, PinnedFile, read_optional, read_whole


def test_a_file_is_read_at_each_call(tmp_path):
    path = tmp_path / "value"
    path.write_bytes(b"1\n")
    file = KeptFile(str(path))
    assert file.read() == b"1\n"
    path.write_bytes(b"2\n")
    assert file.read() == b"2\n"


@pytest.mark.parametrize("kind", [KeptFile, KeptRecords])
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 8192, 100_000])
def test_files_are_read_whole(tmp_path, kind, size):
    text = os.urandom(size)
    path = tmp_path / "value"
    path.write_bytes(text)
    file = kind(str(path))
    assert file.read() == text
    assert file.read() == text
    assert read_whole(str(path)) == text


def test_records_are_read_to_the_last():
    lines = KeptRecords("/proc/self/smaps").read().splitlines()
    assert len(lines) > 100
    assert lines[-1].startswith(b"VmFlags:")


def test_a_missing_file_is_none_and_a_missing_directory_is_gone(tmp_path):
    directory = tmp_path / "cgroup"
    directory.mkdir()
    assert KeptFile(str(directory / "memory.max")).read() is None
    assert read_optional(str(directory / "memory.max")) is None
    directory.rmdir()
    with pytest.raises(Gone):
        KeptFile(str(directory / "memory.max")).read()


def test_a_file_may_appear_later(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "_ABSENT_SECONDS", 0)
    path = tmp_path / "memory.max"
    file = KeptFile(str(path))
    assert file.read() is None
    path.write_bytes(b"max\n")
    assert file.read() == b"max\n"


def test_giving_up_a_descriptor_closes_it(tmp_path):
    path = tmp_path / "value"
    path.write_bytes(b"1\n")
    file = KeptFile(str(path))
    before = len(os.listdir("/proc/self/fd"))
    file.read()
    assert len(os.listdir("/proc/self/fd")) == before + 1
    file.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert file.read() == b"1\n"


def test_a_file_of_an_ended_process_is_gone():
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    pinned = PinnedFile(f"/proc/{process.pid}/cgroup")
    file = KeptFile(f"/proc/{process.pid}/cgroup")
    assert pinned.read() == file.read()
    process.communicate()
    with pytest.raises(Gone):
        pinned.read()
    with pytest.raises(Gone):
        file.read()
    with pytest.raises(Gone):
        PinnedFile(f"/proc/{process.pid}/cgroup")


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ESRCH])
def test_what_says_that_it_has_ended_is_gone(number):
    assert type(kept.translate(OSError(number, "x"), "p")) is Gone


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE, errno.EINVAL])
def test_other_errors_are_source_errors(number):
    assert type(kept.translate(OSError(number, "x"), "p")) is SourceError


def test_a_directory_is_a_source_error(tmp_path):
    with pytest.raises(SourceError):
        KeptFile(str(tmp_path)).read()
