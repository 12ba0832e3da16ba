"""Which part of a hierarchy is a caller's own; the rest is in tests/mount/test_cgroup.py."""

from __future__ import annotations

import dataclasses
import errno
import os
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pylxcfs.sources import cgroupfs
from pylxcfs.sources.cgroupfs import CallerView, CgroupFiles
from pylxcfs.sources.cgroups import Hierarchies
from pylxcfs.sources.identity import Identity
from pylxcfs.sources.kept import Descriptor
from tests.unit.sources.trees import Tree

HOST, CONTAINER = Identity(1, 0), Identity(2, 0)


@dataclass
class FakeRegistry:
    """Callers and the cgroups of their containers."""

    callers: dict[int, Identity] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    host_identity: Identity = HOST

    def identify(self, pid: int) -> Identity | None:
        return self.callers.get(pid)

    def get(self, identity: Identity, pid: int) -> Any:
        registry = self

        class Container:
            def paths(self) -> dict[str, str]:
                return registry.paths

        return Container()


def place(own: str, cgroup: str) -> CallerView:
    names = [tuple(name for name in path.split("/") if name) for path in (own, cgroup)]
    fake: Any = None
    return CallerView(names[0], names[1], 1, fake, fake)


@pytest.mark.parametrize(
    ("own", "cgroup", "inside", "below"),
    [
        ("/lxc/ct", "/", False, "lxc"),
        ("/lxc/ct", "/lxc", False, "ct"),
        ("/lxc/ct", "/lxc/ct", True, None),
        ("/lxc/ct", "/lxc/ct/a/b", True, None),
        ("/lxc/ct", "/lxc/ct2", False, None),
        ("/lxc/ct", "/lxc/other/ct", False, None),
        ("/lxc/ct", "/docker", False, None),
        ("/", "/", True, None),
    ],
)
def test_what_is_inside_and_what_is_on_the_way(
    own: str, cgroup: str, inside: bool, below: str | None
) -> None:
    found = place(own, cgroup)
    assert (found.inside, found.next) == (inside, below)
    assert found.is_own == (own == cgroup)
    if inside:
        assert own.rstrip("/") + "/" + found.path == cgroup or found.is_own


def test_limits_of_the_own_cgroup_and_files_of_their_writer_are_not_opened() -> None:
    own, below, outside = place("/a", "/a"), place("/a", "/a/b"), place("/a", "/")
    for name in ("cgroup.procs", "tasks", "cgroup.subtree_control"):
        own.check_open(name, write=True)
    own.check_open("memory.max", write=False)
    below.check_open("memory.max", write=True)
    below.check_open("cgroup.pressure", write=True)
    for found, name, write, number in (
        (own, "memory.max", True, errno.EACCES),
        (own, "cgroup.pressure", True, errno.EACCES),
        (outside, "tasks", False, errno.EACCES),
        (below, "cgroup.event_control", True, errno.EOPNOTSUPP),
        (below, "memory.pressure", True, errno.EOPNOTSUPP),
        (below, "memory.peak", True, errno.EOPNOTSUPP),
        (below, "memory.swap.peak", True, errno.EOPNOTSUPP),
    ):
        with pytest.raises(OSError, match=r".") as caught:
            found.check_open(name, write=write)
        assert caught.value.errno == number


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
def files(tmp_path: Path, registry: FakeRegistry) -> CgroupFiles:
    """A hybrid host with the caller 7, in which v2 is systemd's alone."""
    tree = Tree(tmp_path)
    tree.v1("memory")
    tree.v1("cpu", "cpuacct")
    tree.v2("", "/sys/fs/cgroup/unified")
    fake: Any = registry
    return CgroupFiles(Hierarchies.discover(str(tmp_path)), fake, 1.0)


def own(files: CgroupFiles, key: str, caller: str, tmp_path: Path, v2: str = "/engine") -> str:
    text = f"2:memory:{caller}\n1:cpu,cpuacct:{caller}\n0::{v2}\n"
    (tmp_path / "proc/7").mkdir(parents=True, exist_ok=True)
    (tmp_path / "proc/7/cgroup").write_text(text)
    return "/" + "/".join(files.own(files.served[key], 7))


def test_hierarchies_are_named_by_their_controllers(files: CgroupFiles) -> None:
    served = {key: (found.name, found.aliases) for key, found in files.served.items()}
    assert served == {
        "memory": ("memory", ()),
        "cpu": ("cpu,cpuacct", ("cpu", "cpuacct")),
        "": ("unified", ()),
    }


def test_the_own_cgroup_is_the_containers_if_the_caller_is_in_it(
    files: CgroupFiles, registry: FakeRegistry, tmp_path: Path
) -> None:
    registry.callers[7] = CONTAINER
    registry.paths = {"memory": "/lxc/ct", "cpu": "/lxc/ct", "": "/engine"}
    assert own(files, "memory", "/lxc/ct/a", tmp_path) == "/lxc/ct"
    assert own(files, "memory", "/lxc/ct", tmp_path) == "/lxc/ct"
    # In its pid namespace, but elsewhere.
    assert own(files, "memory", "/lxc/ct2", tmp_path) == "/lxc/ct2"
    with pytest.raises(PermissionError):
        own(files, "memory", "/", tmp_path)


def test_a_shared_v2_cgroup_is_nobodys_own(
    files: CgroupFiles, registry: FakeRegistry, tmp_path: Path
) -> None:
    registry.callers[7] = CONTAINER
    registry.paths = {"memory": "/docker/1", "cpu": "/docker/1", "": "/engine"}
    with pytest.raises(PermissionError):
        own(files, "", "/docker/1", tmp_path)
    registry.paths[""] = "/docker/1"
    assert own(files, "", "/docker/1", tmp_path, "/docker/1") == "/docker/1"


def test_a_process_of_the_host_has_the_cgroup_it_is_in(
    files: CgroupFiles, registry: FakeRegistry, tmp_path: Path
) -> None:
    registry.callers[7] = HOST
    assert own(files, "memory", "/user.slice/x", tmp_path) == "/user.slice/x"
    assert own(files, "memory", "/", tmp_path) == "/"
    with pytest.raises(PermissionError):
        own(files, "memory", "/../x", tmp_path)  # outside of the server's cgroup namespace
    registry.callers.clear()
    with pytest.raises(PermissionError):
        own(files, "memory", "/user.slice/x", tmp_path)  # it is not known


def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroupfs, "_MOST_TEXT", 10)
    ours, theirs = socket.socketpair()
    caller: Any = SimpleNamespace(files=SimpleNamespace(timeout_s=0))
    found = dataclasses.replace(place("/", "/"), caller=caller)
    with ours, theirs:
        theirs.sendall(b"+" + b"x" * 11)
        with pytest.raises(OSError, match="too long"):
            found._answer(ours)


@pytest.mark.parametrize(
    ("answer", "number"),
    [(b"-13", errno.EACCES), (b"-511", 511), (b"-512", errno.EIO), (b"-0", errno.EIO),
     (b"-600", errno.EIO), (b"--5", errno.EIO), (b"-x", errno.EIO), (b"-", errno.EIO),
     (b"x", errno.EIO), (b"-" + b"9" * 5000, errno.EIO)],
)  # fmt: skip
def test_an_error_that_a_container_has_forged_is_one_that_the_kernel_takes(
    files: CgroupFiles, monkeypatch: pytest.MonkeyPatch, answer: bytes, number: int
) -> None:
    fake: Any = None
    caller = cgroupfs.Caller(os.getpid(), (0, 0), Descriptor(os.open("/", os.O_RDONLY)), files)
    found = dataclasses.replace(place("/", "/"), caller=caller)
    monkeypatch.setattr(CallerView, "_open_own", lambda _: caller.proc)
    monkeypatch.setattr(CallerView, "_answer", lambda *_: answer)
    monkeypatch.setattr(files.helper, "ask", lambda *_: fake)
    with pytest.raises(OSError, match=r".") as caught:
        found.mkdir("x", 0)
    assert caught.value.errno == number


def test_a_listing_goes_on_behind_a_number_without_attributes_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abcd":
        (tmp_path / name).mkdir()
    monkeypatch.setattr(
        CallerView, "_open", lambda _: Descriptor(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY))
    )
    every = list(place("/", "/").entries(0))
    assert [(number, name) for number, name, _ in every] == sorted(
        ((tmp_path / name).stat().st_ino, name) for name in "abcd"
    )
    rest = place("/", "/").entries(every[0][0])
    asked = []
    original = os.stat

    def stat(path: Any, **options: Any) -> os.stat_result:
        asked.append(path)
        return original(path, **options)

    monkeypatch.setattr(os, "stat", stat)
    assert next(rest) == every[1]
    assert len(asked) == 1


def test_a_caller_that_has_ended_is_no_later_process(files: CgroupFiles) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        caller = files.caller(process.pid)
        caller.check_alive()
        assert len(caller.with_rights().rights) == 16
        process.communicate()
    with pytest.raises(OSError, match=r"."):
        caller.check_alive()
    with pytest.raises(OSError, match=r"."):
        caller.with_rights()
    with pytest.raises(OSError, match=r"."):
        files.caller(process.pid)
