"""The rescue server's answers, on a host made of files."""

from __future__ import annotations

import errno
import os
import stat
import struct
from pathlib import Path

import pytest

from pylxcfs.fuse import wire
from pylxcfs.keeper import rescue
from pylxcfs.keeper.rescue import Rescue
from pylxcfs.tree import nodes
from tests.kit.sysfs import MadeSysfs

FILES = ("proc/meminfo", "proc/gone", "proc/pressure/cpu")
MEMINFO = nodes.FILES
#: A node of a container: some pid namespace.
CONTAINER = nodes.pair((0xF0000123, 0))
OWN, CALLER = "own", "caller"
KINDS = (OWN, CALLER, rescue.PREVIOUS)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc/pressure").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_bytes(b"MemTotal: 1 kB\n")
    (tmp_path / "proc/pressure/cpu").write_bytes(b"some avg10=0.00\n")
    cpu = tmp_path / "sys/devices/system/cpu"
    cpu.mkdir(parents=True)
    (cpu / "online").write_bytes(b"0-1\n")
    (cpu / "secret").write_bytes(b"")
    (cpu / "secret").chmod(0o600)
    (cpu / "link").symlink_to("../cpu/online")
    return tmp_path


class Kernel:
    """Requests as the kernel makes them."""

    def __init__(self, kind: str, root: Path, *, devices: bool = False) -> None:
        self.rescue = Rescue(kind, FILES, str(root), devices=devices)

    def raw(self, opcode: int, node: int, body: bytes = b"") -> tuple[int, bytes]:
        head = wire.IN_HEADER.pack(wire.IN_HEADER.size + len(body), opcode, 7, node, 0, 0, 1, 0)
        reply = self.rescue.answer(head + body)
        assert reply is not None
        length, error, unique = wire.OUT_HEADER.unpack_from(reply)
        assert (length, unique) == (len(reply), 7)
        return -error, reply[wire.OUT_HEADER.size :]

    def ok(self, opcode: int, node: int, body: bytes = b"") -> bytes:
        error, data = self.raw(opcode, node, body)
        assert error == 0, os.strerror(error)
        return data

    def lookup(self, node: int, name: str) -> tuple[int, int, int, int]:
        """Return node id, generation, mode and size."""
        data = self.ok(wire.LOOKUP, node, name.encode() + b"\0")
        node, generation, *valid = wire.ENTRY_OUT.unpack_from(data)
        assert valid == [0, 0, 0, 0]  # nothing is valid for any time
        fields = wire.ATTR.unpack(data[wire.ENTRY_OUT.size :])
        return node, generation, fields[9], fields[1]

    def walk(self, path: str) -> int:
        node = nodes.ROOT
        for name in path.split("/"):
            node, generation, _, _ = self.lookup(node, name)
            assert generation == 0
        return node

    def read(self, node: int, offset: int = 0, size: int = 100, *, page: bool = False) -> bytes:
        flags = 0 if page else wire.READ_LOCKOWNER
        return self.ok(wire.READ, node, wire.READ_IN.pack(0, offset, size, flags) + bytes(16))

    def names(self, node: int, opcode: int = wire.READDIR, size: int = 4096) -> list[str]:
        found: list[str] = []
        while data := self.ok(opcode, node, wire.READ_IN.pack(0, len(found), size, 0) + bytes(16)):
            skip = 128 if opcode == wire.READDIRPLUS else 0
            while data:
                _, _, length, _ = wire.DIRENT.unpack_from(data, skip)
                start = skip + wire.DIRENT.size
                found.append(data[start : start + length].decode())
                data = data[skip + (wire.DIRENT.size + length + 7) // 8 * 8 :]
        return found


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (OWN, "own/host/proc/meminfo"),
        (CALLER, "proc/meminfo"),
        (rescue.PREVIOUS, "by-pidns/host/proc/meminfo"),
    ],
)
def test_files_are_the_hosts(root: Path, kind: str, path: str) -> None:
    kernel = Kernel(kind, root)
    node = kernel.walk(path)
    assert nodes.index_of(node) == MEMINFO
    host = nodes.pair((os.stat("/proc/self/ns/pid").st_ino, 0))
    assert nodes.pair_of(node) == (0 if kind == CALLER else host)
    assert kernel.read(node) == b"MemTotal: 1 kB\n"
    assert kernel.read(node, 4, 5) == b"otal:"


def test_links_of_the_own_mount_lead_to_the_hosts_files(root: Path) -> None:
    kernel = Kernel(OWN, root)
    for path, target in (
        ("proc/meminfo", b"../own/host/proc/meminfo"),
        ("proc/pressure", b"../own/host/proc/pressure"),
        ("sys/devices/system/cpu", b"../../../own/host/sys/devices/system/cpu"),
    ):
        assert kernel.ok(wire.READLINK, kernel.walk(path)) == target
        kernel.walk(os.path.normpath(f"{os.path.dirname(path)}/{target.decode()}"))


def test_nodes_that_the_kernel_holds_of_a_container_show_the_host(root: Path) -> None:
    kernel = Kernel(OWN, root)
    assert kernel.read(nodes.node(CONTAINER, MEMINFO)) == b"MemTotal: 1 kB\n"
    cpu = kernel.walk("own/host/sys/devices/system/cpu")
    in_container = nodes.node(CONTAINER, nodes.index_of(cpu))
    node, _, mode, size = kernel.lookup(in_container, "online")
    assert node == kernel.walk("own/host/sys/devices/system/cpu/online")
    assert (stat.S_IMODE(mode), size) == (0o444, 4)
    assert kernel.read(node) == b"0-1\n"
    # A rescue server that has never listed that directory finds it.
    index = nodes.index_of(node)
    assert Kernel(OWN, root).read(nodes.node(CONTAINER, index)) == b"0-1\n"


@pytest.mark.parametrize("name", ["4026532000-1-0123", "self", "hosts", "..", ""])
def test_names_of_containers_are_not_found(root: Path, name: str) -> None:
    assert Kernel(OWN, root).raw(wire.LOOKUP, nodes.OWN, name.encode() + b"\0")[0] == errno.ENOENT


def test_a_file_that_the_host_does_not_have_is_eio_to_read_and_not_listed(root: Path) -> None:
    kernel = Kernel(OWN, root)
    gone = nodes.FILES + 1
    request = wire.READ_IN.pack(0, 0, 100, wire.READ_LOCKOWNER) + bytes(16)
    assert kernel.raw(wire.READ, gone, request)[0] == errno.EIO
    assert kernel.ok(wire.GETATTR, gone)
    assert kernel.names(kernel.walk("own/host/proc")) == ["meminfo", "pressure"]


def test_a_page_is_filled_on_the_own_mount_and_refused_on_the_caller_mount(root: Path) -> None:
    text = b"MemTotal: 1 kB\n"
    assert Kernel(OWN, root).read(MEMINFO, 0, 20, page=True) == text + b"\n" * 5
    request = wire.READ_IN.pack(0, 0, 4096, 0) + bytes(16)
    assert Kernel(CALLER, root).raw(wire.READ, MEMINFO, request)[0] == errno.EINVAL


def test_open_is_refused_for_ever_on_the_own_mount_only(root: Path) -> None:
    assert Kernel(OWN, root).raw(wire.OPEN, MEMINFO, bytes(8))[0] == errno.ENOSYS
    for kind in (CALLER, rescue.PREVIOUS):
        handle, flags = struct.unpack("=QI4x", Kernel(kind, root).ok(wire.OPEN, MEMINFO, bytes(8)))
        assert 0 < handle < 1 << 16
        assert flags == wire.FOPEN_DIRECT_IO


@pytest.mark.parametrize("opcode", set(range(4, 60)) - {wire.OPEN, wire.READ, wire.STATX})
def test_nothing_is_refused_for_ever_on_the_caller_mount(root: Path, opcode: int) -> None:
    reply = Kernel(CALLER, root).rescue.answer(
        wire.IN_HEADER.pack(wire.IN_HEADER.size + 64, opcode, 7, MEMINFO, 0, 0, 1, 0) + bytes(64)
    )
    if reply is not None:
        assert wire.OUT_HEADER.unpack_from(reply)[1] != -errno.ENOSYS


def test_names_of_cgroups_stay_with_what_is_mounted_there(root: Path) -> None:
    """The kernel drops a name after any error of a LOOKUP but ENOMEM."""
    node = nodes.cgroup_node(0, 5)
    kernel = Kernel(CALLER, root)
    assert kernel.raw(wire.LOOKUP, node, b"x\0") == (errno.ENOMEM, b"")
    assert kernel.raw(wire.GETATTR, node, bytes(16)) == (errno.EIO, b"")


def test_sizes_agree_with_texts_while_these_change(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel(OWN, root)
    monkeypatch.setattr(rescue, "_LIFE_NS", 10**15)
    size, mtime = attributes(kernel)
    (root / "proc/meminfo").write_bytes(b"MemTotal: 1000 kB\n")
    assert len(kernel.read(MEMINFO)) == size
    monkeypatch.setattr(rescue, "_LIFE_NS", 0)
    assert attributes(kernel) > (size, mtime)
    assert kernel.read(MEMINFO) == b"MemTotal: 1000 kB\n"


def attributes(kernel: Kernel) -> tuple[int, int]:
    """Return size and mtime."""
    fields = wire.ATTR.unpack(kernel.ok(wire.GETATTR, MEMINFO)[wire.ATTR_OUT.size :])
    return fields[1], fields[4] * 10**9 + fields[7]


def test_modes_of_sysfs_are_the_hosts_without_writing(root: Path) -> None:
    kernel = Kernel(OWN, root)
    cpu = kernel.walk("own/host/sys/devices/system/cpu")
    assert stat.S_IMODE(kernel.lookup(cpu, "secret")[2]) == 0o400
    link, _, mode, _ = kernel.lookup(cpu, "link")
    assert stat.S_ISLNK(mode)
    assert kernel.ok(wire.READLINK, link) == b"../cpu/online"
    assert set(kernel.names(cpu)) == {"online", "secret", "link"}


@pytest.mark.parametrize("size", [4096, 200])
def test_directories_are_listed_in_answers_of_any_size(root: Path, size: int) -> None:
    kernel = Kernel(CALLER, root)
    assert kernel.names(nodes.ROOT, wire.READDIRPLUS, size) == ["proc", "sys"]
    assert kernel.names(kernel.walk("proc"), wire.READDIRPLUS, size) == ["meminfo", "pressure"]
    assert kernel.names(kernel.walk("proc/pressure"), wire.READDIRPLUS, size) == ["cpu"]
    assert Kernel(OWN, root).names(nodes.OWN) == ["host"]


@pytest.mark.parametrize("kind", KINDS)
def test_any_node_and_operation_is_answered(root: Path, kind: str) -> None:
    kernel = Kernel(kind, root)
    for opcode in range(1, 60):
        for node in (0, 1, 3, 8, 40, nodes.LINKS + 9, 200, 5000, 1 << 21, (1 << 64) - 1):
            body = bytes(64)
            head = wire.IN_HEADER.pack(wire.IN_HEADER.size + 64, opcode, 7, node, 0, 0, 1, 0)
            reply = kernel.rescue.answer(head + body)
            assert (reply is None) == (opcode in wire.UNANSWERED)


def test_directories_of_devices_are_the_hosts_where_they_are_served(root: Path) -> None:
    made = MadeSysfs(root)
    plain = Kernel(OWN, root)
    assert plain.names(plain.walk("sys")) == ["devices"]
    kernel = Kernel(OWN, root, devices=True)
    directory = kernel.walk("own/host/sys/class/infiniband")
    assert sorted(kernel.names(directory)) == [f"mlx5_{n}" for n in range(4)] + ["rxe0"]
    link = kernel.walk("own/host/sys/class/infiniband/mlx5_2")
    target = os.readlink(made.sys / "class/infiniband/mlx5_2")
    assert kernel.ok(wire.READLINK, link) == target.encode()
    # The node that the kernel has of a container's directory.
    _, index = divmod(directory, nodes.INDEX_LIMIT)
    assert sorted(kernel.names(nodes.node(CONTAINER, index))) == sorted(kernel.names(directory))
