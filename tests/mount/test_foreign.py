"""Foreign readers: whatever one container does, no other reads its numbers, and it none of theirs.

Each container's memory limit is a number of its own: the marker that texts are told apart by.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylxcfs.tree import nodes
from tests.conftest import require
from tests.kit import readers
from tests.kit.cgroups import Cgroup
from tests.kit.container import Container
from tests.kit.daemon import Daemon
from tests.kit.readers import Way

MIB = 1 << 20
MEMINFO = "/proc/meminfo"
SECONDS = float(os.environ.get("PYLXCFS_SOAK", "1"))
LIMITS = tuple(size * MIB for size in (301, 302, 303, 304))


@pytest.fixture(scope="module", params=["own", "host"])
def four(daemon: Daemon, request: pytest.FixtureRequest) -> Iterator[list[Container]]:
    """Four containers whose files are bound by themselves, or by the host."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(Container(daemon.mountpoint, bind=request.param, memory=limit))
            for limit in LIMITS
        ]


def total(text: bytes) -> int:
    return int(text.split(None, 2)[1]) << 10


def assert_own(outcome: readers.Outcome, limit: int) -> None:
    assert outcome.reads > 1
    assert {total(text) for text in outcome.texts if text} <= {limit}, outcome.way


def test_busybox_cat_in_loops_reads_its_own(four: list[Container], tmp_path: Path) -> None:
    """It sends the file, which fills pages where that is allowed."""
    busybox = shutil.which("busybox") or require("busybox", "there is no busybox")
    (tmp_path / "go").touch()
    running = []
    for container in four:
        out = (tmp_path / str(container.pid)).open("wb+")
        loop = f"while [ -e {tmp_path}/go ]; do {busybox} cat {MEMINFO}; done"
        running.append((container.popen(["sh", "-c", loop], stdout=out), out))
    with contextlib.suppress(subprocess.TimeoutExpired):
        running[0][0].wait(SECONDS)
    (tmp_path / "go").unlink()
    for (process, out), limit in zip(running, LIMITS, strict=True):
        assert process.wait(60) == 0
        out.seek(0)
        found = re.findall(rb"^MemTotal: +(\d+) kB$", out.read(), re.MULTILINE)
        out.close()
        assert len(found) > 10
        assert {int(kib) << 10 for kib in found} == {limit}


@pytest.mark.parametrize(
    "way", [readers.SEND, readers.SEND_KEPT, readers.MAP, readers.MAP_KEPT], ids=str
)
def test_page_fills_show_no_other_reader_anything(four: list[Container], way: Way) -> None:
    """One in each, beside one that reads whole."""
    wanted = [(c, MEMINFO, w) for c in four for w in (way, readers.WHOLE)]
    with readers.reading(*wanted) as running:
        readers.last(running, SECONDS / 2)
        found = [reader.finish() for reader in running]
    for outcome, limit in zip(found, [limit for limit in LIMITS for _ in "xx"], strict=True):
        assert_own(outcome, limit)
        if outcome.way == readers.WHOLE:
            assert outcome.texts
            assert not outcome.errors


def test_a_file_of_the_host_node_read_in_every_way_at_once(daemon: Daemon) -> None:
    """Host processes in two limited cgroups, as `--pid=host` containers are, and the host."""
    ways = (readers.WHOLE, readers.KEPT, readers.SEND_KEPT, readers.SEND, readers.MAP)
    path = os.path.realpath(f"{daemon.mountpoint}{MEMINFO}")
    machine = total(Path(MEMINFO).read_bytes())
    with Cgroup() as first, Cgroup() as second, contextlib.ExitStack() as stack:
        first.limits(memory=LIMITS[0])
        second.limits(memory=LIMITS[1])
        places = [(first, LIMITS[0]), (second, LIMITS[1]), (None, machine)]
        wanted = [(readers.OnHost(cgroup), path, way) for cgroup, _ in places for way in ways]
        running = stack.enter_context(readers.reading(*wanted))
        readers.last(running, SECONDS)
        found = [reader.finish() for reader in running]
    for outcome, limit in zip(found, [limit for _, limit in places for _ in ways], strict=True):
        assert_own(outcome, limit)
        if outcome.way in ways[:2]:
            assert outcome.texts
            assert not outcome.errors
        else:
            assert not outcome.texts


#: Tries to learn of others in a container that has the whole mountpoint; prints what it got.
_SPY = """
import ctypes, errno, json, os, sys
top, others = sys.argv[1], sys.argv[2:]
got = {}
def attempt(name, work):
    try:
        got[name] = work()
    except OSError as error:
        got[name] = errno.errorcode[error.errno]
attempt("list", lambda: os.listdir(top + "/own"))
def tried(names):
    found = []
    for name in names:
        try:
            found += os.listdir(f"{top}/own/{name}")
        except FileNotFoundError:
            pass
    return found
attempt("guess", lambda: tried(others))
attempt("own key", lambda: os.readlink(top + "/proc/meminfo").split("/")[2] != "host")
attempt("own", lambda: open(top + "/proc/meminfo").read().split()[1])
print(json.dumps(got))
"""


@pytest.fixture
def owner_and_spy(daemon: Daemon) -> Iterator[tuple[Container, Container]]:
    with (
        Container(daemon.mountpoint, memory=LIMITS[0]) as owner,
        Container(daemon.mountpoint, memory=LIMITS[1]) as spy,
    ):
        yield owner, spy


def test_nothing_of_others_can_be_found_by_name(
    daemon: Daemon, owner_and_spy: tuple[Container, Container]
) -> None:
    owner, spy = owner_and_spy
    key = owner.key
    assert re.fullmatch(r"\d+-[0-9a-f]+-[0-9a-f]{32}", key)
    number, epoch, mac = key.split("-")
    spied = spy.key.split("-")
    guesses = [
        number,
        f"{number}-{epoch}",
        f"{number}-{epoch}-{'0' * 32}",
        f"{number}-{epoch}-{spied[2]}",
        f"{number}-{epoch}-{mac[:-1]}",
        f"{number}-{epoch}-{mac}0",
        f"{spied[0]}-{epoch}-{mac}",
        f"{number}-{spied[1]}-{mac}",
        f"{number}.0-{epoch}-{mac}",
        "by-pidns",
    ]
    said = spy.exec([sys.executable, "-c", _SPY, str(daemon.mountpoint), *guesses]).stdout
    assert json.loads(said) == {
        "list": "EACCES",
        "guess": [],
        "own key": True,
        "own": str(LIMITS[1] >> 10),
    }


#: Opens files of a mount by handles: that of a path, and the same with other nodes put in.
_HANDLES = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
path, nodes = sys.argv[1].encode(), [int(node) for node in sys.argv[2:]]
handle = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0) + bytes(128))
number = ctypes.c_int()
assert not libc.name_to_handle_at(-100, path, handle, ctypes.byref(number), 0)
size, kind, high, low, generation = struct.unpack_from("=IiIII", handle.raw)
assert (size, kind) == (12, 0x81), (size, kind)
mount = os.open(path, os.O_RDONLY)
for node in [high << 32 | low, *nodes]:
    raw = struct.pack("=IiIII", size, kind, node >> 32, node & 0xFFFFFFFF, generation)
    fd = libc.open_by_handle_at(mount, ctypes.create_string_buffer(raw), os.O_RDONLY)
    print(os.read(fd, 100).split()[1].decode() if fd >= 0 else os.strerror(ctypes.get_errno()))
"""


def test_a_handle_of_another_containers_file_opens_nothing(
    owner_and_spy: tuple[Container, Container],
) -> None:
    """open_by_handle_at(2): the number of a node is not enough, its generation is a secret."""
    owner, spy = owner_and_spy
    assert total(owner.read(MEMINFO)) == LIMITS[0]
    node = nodes.node(nodes.pair((owner.pidns, 0)), nodes.FILES)
    said = spy.exec([sys.executable, "-c", _HANDLES, MEMINFO, str(node)]).stdout.decode()
    own, other = said.splitlines()
    assert own == str(LIMITS[1] >> 10)
    assert other == os.strerror(errno.ESTALE)


def test_a_handle_on_the_caller_mount_is_the_openers(daemon: Daemon) -> None:
    with (
        Container(daemon.mountpoint, memory=LIMITS[0], bind="host") as owner,
        Container(daemon.mountpoint, memory=LIMITS[1], bind="host") as spy,
    ):
        assert total(owner.read(MEMINFO)) == LIMITS[0]
        said = spy.exec([sys.executable, "-c", _HANDLES, MEMINFO, str(nodes.FILES)]).stdout
    assert said.split() == [str(LIMITS[1] >> 10).encode()] * 2


def test_a_container_with_anothers_node_in_its_hands_changes_nothing_for_that(
    owner_and_spy: tuple[Container, Container], daemon: Daemon
) -> None:
    """The host has given it the key: it reads what is there, and puts nothing of its own in."""
    owner, spy = owner_and_spy
    path = f"{daemon.mountpoint}/own/{owner.key}{MEMINFO}"
    ways = (readers.WHOLE, readers.KEPT, readers.SEND, readers.SEND_KEPT, readers.MAP, readers.DROP)
    wanted = [(spy, path, way) for way in ways]
    wanted += [(owner, MEMINFO, readers.WHOLE), (spy, MEMINFO, readers.WHOLE)]
    with readers.reading(*wanted) as running:
        readers.last(running, SECONDS)
        found = [reader.finish() for reader in running]
    for outcome in found[:-1]:
        if outcome.way != readers.DROP:
            assert_own(outcome, LIMITS[0])
    assert_own(found[-1], LIMITS[1])


def test_writing_is_refused(owner_and_spy: tuple[Container, Container]) -> None:
    refused = owner_and_spy[0].exec(["sh", "-c", f"echo 1 >{MEMINFO}"], check=False)
    assert refused.returncode != 0
    assert os.strerror(errno.EROFS).encode() in refused.stderr
