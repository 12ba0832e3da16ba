from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylxcfs.errors import HostError, InstanceError
from pylxcfs.keeper import instance

ROOT = Path(__file__).parents[3]
HOLD = """
import sys
from pylxcfs.keeper import instance
instance.claim(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """A pid file that another process holds, and that process."""
    path = str(tmp_path / "run" / "x.pid")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, path, "--mountpoint", "/mnt/of it"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield path, process.pid
        assert process.stdin is not None
        process.stdin.close()


def test_the_pid_file_says_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "run" / "x.pid"
    number = instance.claim(str(path))
    assert path.read_text() == f"{os.getpid()}\n"
    os.close(number)


def test_a_second_instance_is_refused_and_the_first_named(held: tuple[str, int]) -> None:
    path, pid = held
    assert instance.owner(path) == pid
    with pytest.raises(InstanceError, match=rf"python.* \(pid {pid}\) holds {path}"):
        instance.claim(path)
    assert Path(path).read_text() == f"{pid}\n"


def test_the_mountpoint_of_a_keeper_is_in_its_command(held: tuple[str, int]) -> None:
    assert instance.mountpoint_of(held[1]) == "/mnt/of it"
    assert instance.mountpoint_of(os.getpid()) is None


def test_a_file_left_behind_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    path.write_text("4194304 and more of an older one\n")
    assert instance.owner(str(path)) is None
    number = instance.claim(str(path))
    assert path.read_text() == f"{os.getpid()}\n"
    os.close(number)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match=r"the pid file .*/file/x.pid cannot be written"):
        instance.claim(str(tmp_path / "file" / "x.pid"))


def test_nobody_owns_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert instance.owner(str(tmp_path / "x.pid")) is None
