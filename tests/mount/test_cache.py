"""The page cache: a file kept open ages at most a time-to-live, and no read is ever torn."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.container import Container
from tests.kit.daemon import Daemon
from tests.kit.wellformed import check

GIB = 1 << 30

#: Runs in a container. Reads files whole first, as a known thread does.
_READER = """
import json, mmap, os, sys, time
path, style, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
def whole():
    fd = os.open(path, os.O_RDONLY)
    data = b"".join(iter(lambda: os.read(fd, 65536), b""))
    os.close(fd)
    return data
for _ in range(4):
    whole()
fd = os.open(path, os.O_RDONLY)
seen, reads = [], 0
end = time.monotonic() + seconds
while time.monotonic() < end:
    if style == "kept":
        data = os.pread(fd, 65536, 0)
    elif style == "pieces":
        os.lseek(fd, 0, 0)
        data = b"".join(iter(lambda: os.read(fd, 100), b""))
    elif style == "reopen":
        data = whole()
    elif style == "sendfile":
        out, into = os.pipe()
        one = os.open(path, os.O_RDONLY)
        os.sendfile(into, one, 0, 65536)
        os.close(into)
        data = os.read(out, 65536)
        os.close(out)
        os.close(one)
    reads += 1
    if not seen or seen[-1] != data.hex():
        seen.append(data.hex())
print(json.dumps({"reads": reads, "seen": seen}))
"""


@pytest.fixture(scope="module")
def container(daemon: Daemon) -> Iterator[Container]:
    with Container(daemon.mountpoint, memory=GIB, cpus=1) as running:
        yield running


def read(container: Container, path: str, style: str, seconds: float = 1.0) -> dict[str, Any]:
    done = container.exec([sys.executable, "-c", _READER, path, style, str(seconds)])
    result: dict[str, Any] = json.loads(done.stdout)
    result["seen"] = [bytes.fromhex(text) for text in result["seen"]]
    return result


@pytest.mark.parametrize("style", ["kept", "pieces", "reopen", "sendfile"])
@pytest.mark.parametrize("path", ["/proc/meminfo", "/proc/uptime", "/proc/stat"])
def test_every_content_is_whole(container: Container, path: str, style: str) -> None:
    result = read(container, path, style, 0.5)
    assert result["reads"] > 3
    for content in result["seen"]:
        check(path, content)


def test_a_kept_open_file_shows_at_most_one_content_per_time_to_live(
    container: Container,
) -> None:
    result = read(container, "/proc/uptime", "kept", 2.0)
    # 2 s hold 20 lives of 0.1 s; the first and the last may be cut.
    assert 2 <= len(result["seen"]) <= 22
    ages = [float(content.split()[0]) for content in result["seen"]]
    assert ages == sorted(ages)


#: Runs in a container in which nobody has read before: opens once, and reads on.
_FIRST = """
import json, os, sys, time
fd = os.open(sys.argv[1], os.O_RDONLY)
seen, reads = set(), 0
end = time.monotonic() + 1
while time.monotonic() < end:
    seen.add(os.pread(fd, 65536, 0).hex())
    reads += 1
print(json.dumps({"reads": reads, "seen": sorted(seen)}))
"""


@pytest.mark.parametrize("path", ["/proc/uptime", "/proc/stat", "/proc/meminfo"])
def test_a_process_never_seen_before_is_served_from_the_cache(daemon: Daemon, path: str) -> None:
    with Container(daemon.mountpoint, memory=GIB, cpus=1) as container:
        read(container, path, "reopen", 0.2)  # and what others had open is closed
        result = json.loads(container.exec([sys.executable, "-c", _FIRST, path]).stdout)
    assert len(result["seen"]) <= 12
    assert result["reads"] > 50 * len(result["seen"])
    for content in result["seen"]:
        check(path, bytes.fromhex(content))


#: Small files in one call each, which makes the thread known; then meminfo in pieces, while what
#: is in it changes.
_SMALL_BUFFER = """
import json, time
def pieces(path, pause):
    found = []
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(61):
            found.append(piece)
            used = bytearray(len(found) % 5 << 24)
            time.sleep(pause)
    return b"".join(found)
seen = []
for _ in range(5):
    for path in ("/proc/uptime", "/proc/loadavg", "/proc/swaps"):
        pieces(path, 0)
    seen.append(pieces("/proc/meminfo", 0.03).hex())
print(json.dumps(seen))
"""


def test_who_takes_small_files_whole_gets_no_torn_larger_one(daemon: Daemon) -> None:
    with Container(daemon.mountpoint, memory=GIB, cpus=1) as container:
        seen = json.loads(container.exec([sys.executable, "-c", _SMALL_BUFFER]).stdout)
    assert len(set(seen)) > 1
    for content in seen:
        check("/proc/meminfo", bytes.fromhex(content))


def test_a_shell_that_takes_its_time_gets_one_text(daemon: Daemon) -> None:
    loop = 'while read -r line; do echo "$line"; sleep 0.1; done < /proc/meminfo | head -20'
    with Container(daemon.mountpoint, memory=GIB) as container:
        watcher = container.popen(
            [sys.executable, "-c", _FIRST, "/proc/meminfo"], stdout=subprocess.DEVNULL
        )
        lines = container.exec(["sh", "-c", loop]).stdout.splitlines()
        assert watcher.wait(30) == 0
    names = [line.split(b":")[0] for line in lines]
    assert names[:3] == [b"MemTotal", b"MemFree", b"MemAvailable"]
    assert len(set(names)) == 20


def test_many_reads_make_few_requests(daemon: Daemon, container: Container) -> None:
    result = read(container, "/proc/uptime", "kept", 1.0)
    # Each content was read many times: the page cache answered.
    assert result["reads"] > 50 * len(result["seen"])


@pytest.mark.parametrize("bind", ["own", "host"])
def test_a_changed_limit_shows_in_a_kept_open_file(daemon: Daemon, bind: Any) -> None:
    watcher = (
        "import os, sys\n"
        "def whole():\n"
        "    fd = os.open('/proc/meminfo', os.O_RDONLY)\n"
        "    while os.read(fd, 65536): pass\n"
        "    os.close(fd)\n"
        "for _ in range(4): whole()\n"
        "fd = os.open('/proc/meminfo', os.O_RDONLY)\n"
        "print(os.pread(fd, 65536, 0).split()[1].decode(), flush=True)\n"
        "while os.pread(fd, 65536, 0).split()[1] != b'2097152': pass\n"
        "print('changed', flush=True)\n"
    )
    with Container(daemon.mountpoint, memory=GIB, bind=bind) as container:
        process = container.popen([sys.executable, "-c", watcher], stdout=subprocess.PIPE)
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"1048576\n"
            container.limits(memory=2 * GIB)
            out, _ = process.communicate(timeout=30)
        assert out == b"changed\n"


def test_without_a_time_to_live_every_open_is_new() -> None:
    with (
        Daemon("--cache-ttl", "0") as daemon,
        Container(daemon.mountpoint, memory=GIB) as container,
    ):
        result = read(container, "/proc/uptime", "reopen", 0.5)
        # uptime has hundredths, so there are at most 50 different ones, and all are seen.
        assert len(result["seen"]) > 25


def test_the_time_to_live_is_the_option(tmp_path: Path) -> None:
    with (
        Daemon("--cache-ttl", "30") as daemon,
        Container(daemon.mountpoint, memory=GIB) as container,
    ):
        assert len(read(container, "/proc/uptime", "kept", 1.0)["seen"]) == 1
