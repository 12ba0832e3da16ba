"""Programs that send, map or copy files of the caller mount, on which no page is ever filled.

They fall back to read(2). Those that go by st_size alone get as many bytes as it says.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require
from tests.kit.container import Container
from tests.kit.daemon import Daemon
from tests.kit.wellformed import check
from tests.mount.conftest import Sabotage

GIB = 1 << 30
#: What each is called with, {} for the file; all write it to stdout.
PROGRAMS = {
    "cat": ["cat", "{}"],
    "cp": ["sh", "-c", 'cp {} "$0" && cat "$0"', "TMP"],
    "dd": ["dd", "if={}", "bs=64k", "status=none"],
    "head": ["head", "-c", "1000000", "{}"],
    "busybox cat": ["busybox", "cat", "{}"],
    "busybox cp": ["sh", "-c", 'busybox cp {} "$0" && cat "$0"', "TMP"],
    "busybox dd": ["busybox", "dd", "if={}", "bs=65536"],
    "shutil": [
        sys.executable,
        "-c",
        "import shutil, sys; shutil.copyfile('{}', sys.argv[1]);"
        "print(end=open(sys.argv[1]).read())",
        "TMP",
    ],
    "rsync": ["sh", "-c", 'rsync {} "$0" && cat "$0"', "TMP"],
}


@pytest.fixture(scope="module")
def container(daemon: Daemon) -> Iterator[Container]:
    with Container(daemon.mountpoint, bind="host", memory=GIB, cpus=1) as running:
        yield running


def output(container: Container, name: str, file: str, directory: Path) -> bytes:
    words = PROGRAMS[name]
    for program in ("busybox", "rsync"):
        if program in name and shutil.which(program) is None:
            require("clients", f"there is no {program}")
    command = [word.replace("{}", file).replace("TMP", str(directory / "copy")) for word in words]
    return container.exec(command).stdout


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("file", ["/proc/meminfo", "/proc/cpuinfo", "/proc/stat"])
def test_a_program_reads_the_caller_mount_right(
    container: Container, name: str, file: str, tmp_path: Path
) -> None:
    text = output(container, name, file, tmp_path)
    check(file, text)
    if file == "/proc/meminfo":
        assert text.startswith(b"MemTotal:        1048576 kB\n")


def test_tar_packs_the_caller_mount(container: Container) -> None:
    names = ["/proc/meminfo", "/proc/cpuinfo", "/proc/stat", "/proc/diskstats"]
    packed = container.exec(["tar", "-cPf", "-", *names], check=False)
    # Its text may have changed meanwhile; none was shorter than stat(2) said.
    assert not re.sub(rb"tar: \S+: file changed as we read it\n", b"", packed.stderr)
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        for name in names:
            file = archive.extractfile(archive.getmember(name))
            assert file is not None
            check(name, file.read())


#: A text of many pages that does not change.
_LARGE = "return b''.join(b'%07d\\n' % i for i in range(20_000))"
LARGE = b"".join(b"%07d\n" % i for i in range(20_000))

#: Programs that go by st_size: read(2) of so many bytes, and mmap(2), as `grep --mmap` and `ag` do,
#: with read(2) where that fails. A SIGBUS would end it.
_BY_SIZE = """
import hashlib, json, mmap, os, sys
found = {}
fd = os.open(sys.argv[1], os.O_RDONLY)
size = os.fstat(fd).st_size
found["size"] = size
found["one read"] = len(os.read(fd, size))
found["end"] = len(os.read(fd, size))
try:
    with mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
        found["shared"] = len(mapped[:])
except OSError as error:
    found["shared"] = os.strerror(error.errno)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def large(sabotage: Sabotage) -> Iterator[Container]:
    with (
        Daemon(env=sabotage("proc/uptime", _LARGE)) as daemon,
        Container(daemon.mountpoint, bind="host", memory=GIB) as running,
    ):
        yield running


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_reads_a_text_of_many_pages(large: Container, name: str, tmp_path: Path) -> None:
    assert output(large, name, "/proc/uptime", tmp_path) == LARGE


def test_what_goes_by_st_size_gets_that_much(large: Container) -> None:
    found = json.loads(large.exec([sys.executable, "-c", _BY_SIZE, "/proc/uptime"]).stdout)
    size = len(LARGE)
    assert found == {"size": size, "one read": size, "end": 0, "shared": os.strerror(19)}
    assert large.exec(["wc", "-c", "/proc/uptime"]).stdout.split()[0] == b"%d" % size
    packed = large.exec(["tar", "-cPf", "-", "/proc/uptime"])
    assert not packed.stderr, packed.stderr
    assert LARGE in packed.stdout


def test_slabinfo_has_a_true_size(container: Container) -> None:
    if not os.access("/proc/slabinfo", os.R_OK):
        require("slabinfo", "this kernel has no /proc/slabinfo")
    packed = container.exec(["tar", "-cPf", "-", "/proc/slabinfo"], check=False)
    assert not re.sub(rb"tar: \S+: file changed as we read it\n", b"", packed.stderr)
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        file = archive.extractfile(archive.getmember("/proc/slabinfo"))
        assert file is not None
        check("/proc/slabinfo", file.read())
    said = container.exec([sys.executable, "-c", _BY_SIZE, "/proc/slabinfo"]).stdout
    assert json.loads(said)["one read"] > 1000
