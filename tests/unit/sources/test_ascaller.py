"""What the helper reads of a caller, and how it opens files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pylxcfs.sources import ascaller
from pylxcfs.sources.ascaller import Credentials, Identity, open_beneath

STATUS = b"""Name:\tx
Uid:\t1\t2\t3\t4
Gid:\t5\t6\t7\t8
Groups:\t9 10
NStgid:\t4711\t12
NSpid:\t4712\t13
CapEff:\t000001ffffffffff
"""


def test_credentials_are_those_of_the_status_file() -> None:
    who = Credentials.parse(STATUS)
    assert who == (1, 2, 4, 6, 8, (9, 10), 0x1FFFFFFFFFF, 13, 12)
    with open("/proc/self/status", "rb") as file:
        own = Credentials.parse(file.read())
    assert (own.euid, own.tgid) == (os.geteuid(), os.getpid())


def test_ids_are_mapped_into_the_user_namespace() -> None:
    proc = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
    try:
        caller = Identity(proc)
    finally:
        os.close(proc)
    assert caller.id_inside(1234, 0) == 1234
    caller._maps = b"0 100000 1000\n5000 7 2\n", b"0 200000 1\n"
    assert [caller.id_inside(n, 0) for n in (100000, 100999, 7, 8)] == [0, 999, 5000, 5001]
    assert caller.id_inside(200000, 1) == 0
    assert caller.id_inside(-1, 0) == -1
    for number, kind in ((0, 0), (101000, 0), (9, 0), (200001, 1)):
        with pytest.raises(OSError, match="no place"):
            caller.id_inside(number, kind)


def test_a_path_stays_beneath_its_directory(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").write_text("text")
    (tmp_path / "a" / "link").symlink_to("b")
    directory = os.open(tmp_path / "a", os.O_PATH)
    try:
        for path in ("", ".", "b", "file"):
            os.close(open_beneath(directory, path, os.O_RDONLY))
        refused = {"..": errno.EXDEV, "b/../..": errno.EXDEV, "/": errno.EXDEV, "link": errno.ELOOP}
        for path, number in refused.items():
            with pytest.raises(OSError, match=os.strerror(number)):
                open_beneath(directory, path, os.O_RDONLY)
    finally:
        os.close(directory)


def test_own_capabilities_are_the_effective_ones() -> None:
    with open("/proc/self/status", "rb") as file:
        assert ascaller.own_capabilities() == Credentials.parse(file.read()).caps
