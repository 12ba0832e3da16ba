"""The keeper's page of a connection's memory."""

from __future__ import annotations

import os

import pytest

from pylxcfs.fuse import memory


@pytest.mark.parametrize("can_resend", [True, False])
def test_what_the_keeper_writes_each_server_reads(can_resend: bool) -> None:
    fd = memory.make("caller", "0:57", can_resend)
    header = memory.read(fd)
    assert header.can_resend is can_resend
    assert len(header.secret) == 32
    assert memory.read(fd) == header
    os.close(fd)


def test_each_mount_has_its_own_secret() -> None:
    fds = [memory.make("own", "0:57", True) for _ in range(2)]
    first, second = (memory.read(fd).secret for fd in fds)
    assert first != second
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize("data", [b"", b"pylxcfs2", b"pylxcfs1" + bytes(4088), bytes(4096)])
def test_a_page_of_another_version_is_refused(data: bytes) -> None:
    fd = os.memfd_create("other")
    os.write(fd, data)
    with pytest.raises(ValueError, match="another version"):
        memory.read(fd)
    os.close(fd)


def test_the_device_is_found_by_the_name_of_the_memory() -> None:
    fd = memory.make("caller", "0:57", True)
    assert memory.device_of(fd, "caller") == "0:57"
    assert memory.device_of(fd, "own") is None
    os.close(fd)
    with open("/dev/null", "rb") as file:
        assert memory.device_of(file.fileno(), "own") is None
