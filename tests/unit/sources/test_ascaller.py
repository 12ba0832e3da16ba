"""What the helper reads of a caller, and how it opens files."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pylxcfs.sources import ascaller
from pylxcfs.sources.ascaller import Credentials, Impersonation, open_beneath
from pylxcfs.sources.helper import HelperProcess
from pylxcfs.sources.kept import Descriptor
from tests.conftest import wait_until

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
        caller = Impersonation(proc)
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


def test_what_is_no_pid_is_left_to_the_kernel() -> None:
    proc = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
    try:
        caller = Impersonation(proc)
        caller._maps = b"", b""
        for moved in (99999999999999999999, 9999999999, 4194305):
            assert caller._euid_to_move(moved) == caller.who.euid
    finally:
        os.close(proc)


class Requests:
    """Requests to a helper that read from a FIFO that is open for reading nowhere else."""

    def __init__(self, directory: Path) -> None:
        os.mkfifo(directory / "fifo")
        self._directory = Descriptor(os.open(directory, os.O_RDONLY | os.O_DIRECTORY))
        self._proc = Descriptor(os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY))
        self.rights = ascaller.rights_of(self._proc.number)
        self.helper = HelperProcess(ascaller.__file__, 60.0, 60.0)

    def start(self, key: int, timeout_s: float = 0, size: int = 0) -> socket.socket:
        """Send a request. Return the socket of the answer."""
        request = {
            "do": "read", "path": "", "number": 0, "name": "fifo", "lists": "", "most": 100,
            "size": size, "rights": self.rights.hex(),
        }  # fmt: skip
        ours, theirs = socket.socketpair()
        ours.sendall(json.dumps(request).encode())
        ours.shutdown(socket.SHUT_WR)
        with theirs:
            head = json.dumps({"key": key, "timeout_s": timeout_s}).encode()
            self.helper.ask(head, theirs.fileno(), self._proc.number, self._directory.number)
        ours.settimeout(60)
        return ours


def said(answer: socket.socket) -> bytes:
    """Return the answer; b"" at its end, which is a reset where the request was not read before."""
    try:
        return answer.recv(100)
    except ConnectionResetError:
        return b""


@pytest.fixture
def requests(tmp_path: Path) -> Iterator[Requests]:
    made = Requests(tmp_path)
    yield made
    made.helper.close()


def test_what_is_done_for_a_caller_with_other_rights_is_refused(requests: Requests) -> None:
    """It may have become a program with the set-user-ID bit meanwhile."""
    requests.rights = bytes(16)
    with requests.start(1) as refused:
        assert said(refused) == b"-%d" % errno.EACCES


def test_a_request_that_lacks_a_part_is_refused(requests: Requests) -> None:
    """The server was killed when it had sent the rest."""
    with requests.start(1, size=1) as refused:
        assert said(refused) == b"-%d" % errno.EIO


def test_rights_are_those_of_credentials_and_namespaces() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        proc = os.open(f"/proc/{process.pid}", os.O_RDONLY | os.O_DIRECTORY)
        own = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
        try:
            rights = ascaller.rights_of(proc)
            assert rights == ascaller.rights_of(own) == Impersonation(proc).rights
            assert len(rights) == 16
        finally:
            os.close(proc)
            os.close(own)
            process.kill()
    status = STATUS
    spaces = ["user:[1]", "pid:[2]", "cgroup:[3]", "net:[4]"]
    digest = ascaller._rights(spaces, status)
    assert digest == ascaller._rights(spaces, status.replace(b"4712", b"4713"))
    others = [ascaller._rights([*spaces[:n], "x:[5]", *spaces[n + 1 :]], status) for n in range(4)]
    for old, new in ((b"4\n", b"5\n"), (b"10\n", b"11\n"), (b"fffff", b"ffffe"), (b"8\n", b"9\n")):
        others.append(ascaller._rights(spaces, status.replace(old, new, 1)))
    assert len({digest, *others}) == 9


@pytest.mark.parametrize(
    ("data", "pid"),
    [(b"0", 0), (b"0\n", 0), (b" 17 \n", 17), (b"17\0rest", 17), (b"4294967295", 4294967295)],
)
def test_a_pid_is_decimal(data: bytes, pid: int) -> None:
    assert ascaller.pid_in(data) == pid


@pytest.mark.parametrize(
    "data", [b"", b"00", b"0x0", b"+0", b"-0", b"-1", b"\xa00", b"017", b"x", b"1 2", b"9" * 4096]
)
def test_what_is_no_decimal_pid_is_einval(data: bytes) -> None:
    with pytest.raises(OSError, match="decimal") as caught:
        ascaller.pid_in(data)
    assert caught.value.errno == errno.EINVAL


def test_children_that_take_too_long_are_killed(requests: Requests) -> None:
    with requests.start(1, timeout_s=0.01) as late, requests.start(1) as other:
        assert said(late) == b""
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            said(other)


def test_one_container_has_few_children_and_all_end_with_the_helper(requests: Requests) -> None:
    mine = [requests.start(1) for _ in range(8)]
    with requests.start(1) as refused:
        assert said(refused) == b"-%d" % errno.EAGAIN
    mine.append(requests.start(2))
    mine[0].setblocking(False)
    with pytest.raises(BlockingIOError):
        said(mine[0])
    mine[0].settimeout(60)
    requests.helper.close()
    for answer in mine:
        with answer:
            assert said(answer) == b""


def test_a_helper_that_is_killed_leaves_no_child_behind(requests: Requests) -> None:
    """Also not one that its container has stopped; and each holds no lifeline of another."""
    answers = [requests.start(key) for key in range(3)]
    assert requests.helper._process is not None
    helper = psutil.Process(requests.helper._process.pid)
    children = helper.children()
    assert len(children) == 3
    for child in children[1:]:
        child.suspend()
        wait_until(lambda child=child: child.status() == psutil.STATUS_STOPPED, what="a stop")
    helper.kill()
    for answer in answers:
        with answer:
            assert said(answer) == b""


def test_a_child_that_has_ended_does_not_stay_a_zombie(requests: Requests) -> None:
    with requests.start(1, timeout_s=0.01) as answer:
        said(answer)
    assert requests.helper._process is not None
    helper = psutil.Process(requests.helper._process.pid)
    wait_until(lambda: not helper.children(), what="the helper to reap its child")


def test_a_child_that_has_ended_makes_room(requests: Requests) -> None:
    for answer in [requests.start(1, timeout_s=0.01) for _ in range(8)]:
        with answer:
            said(answer)
    got = refused = b"-%d" % errno.EAGAIN
    while got == refused:  # the last one may be about to end
        with requests.start(1, timeout_s=0.01) as answer:
            got = said(answer)
    assert got == b""
