"""The page cache of the own mount: how old a text may get, and how few requests that takes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import wait_until
from tests.kit import readers
from tests.kit.container import Container
from tests.kit.daemon import DEADLINE_S, Daemon
from tests.kit.readers import Outcome, Way
from tests.kit.wellformed import check

GIB = 1 << 30
UPTIME = "/proc/uptime"


@pytest.fixture(scope="module")
def container(daemon: Daemon) -> Iterator[Container]:
    with Container(daemon.mountpoint, memory=GIB, cpus=1) as running:
        yield running


def read(container: Container, path: str, way: Way, seconds: float = 1.0) -> Outcome:
    with readers.reading((container, path, way)) as (reader,):
        readers.last([reader], seconds)
        found = reader.finish()
    assert not found.errors
    return found


@pytest.mark.parametrize("way", [readers.KEPT, readers.WHOLE, readers.SEND, readers.MAP], ids=str)
def test_a_file_shows_about_one_text_per_time_to_live(container: Container, way: Way) -> None:
    found = read(container, UPTIME, way, 2.0)
    # 2 s hold 20 lives of 0.1 s; that it takes longer to end the reader is no fault.
    assert len(found.texts) >= 2
    ages = [float(text.split()[0]) for text in found.texts]
    assert ages == sorted(ages)
    assert len(ages) <= 3 + (ages[-1] - ages[0]) / 0.1
    # Each was read many times: the page cache answered.
    assert found.reads > 50 * len(found.texts)


def test_a_file_that_is_kept_open_and_sent_shows_its_page_until_it_is_read(
    container: Container,
) -> None:
    """As documented: sendfile(2) asks for no attributes."""
    read(container, UPTIME, readers.WHOLE, 0)
    found = read(container, UPTIME, readers.SEND_KEPT, 0.5)
    assert len(found.texts) == 1


#: Starts many times, and reads once.
_NEW = """
i=0
while [ $i -lt 30 ]; do cat /proc/uptime; i=$((i + 1)); done
"""


def test_a_new_process_is_served_from_the_cache(container: Container) -> None:
    texts = container.exec(["sh", "-c", _NEW]).stdout.splitlines()
    assert len(texts) == 30
    assert len(set(texts)) < 30


#: meminfo in pieces, while what is in it changes.
_PIECES = """
import json, time
def pieces(path, pause):
    found = []
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(61):
            found.append(piece)
            used = bytearray(len(found) % 5 << 24)
            time.sleep(pause)
    return b"".join(found)
print(json.dumps([pieces("/proc/meminfo", 0.03).hex() for _ in range(4)]))
"""


@pytest.mark.parametrize("bind", ["own", "host"])
def test_a_reader_in_pieces_that_takes_its_time_gets_one_text(daemon: Daemon, bind: Any) -> None:
    with Container(daemon.mountpoint, bind=bind, memory=GIB, cpus=1) as container:
        seen = json.loads(container.exec([sys.executable, "-c", _PIECES]).stdout)
    assert len(set(seen)) > 1
    for content in seen:
        check("/proc/meminfo", bytes.fromhex(content))


@pytest.mark.parametrize("bind", ["own", "host"])
def test_a_shell_that_takes_its_time_gets_one_text(daemon: Daemon, bind: Any) -> None:
    loop = 'while read -r line; do echo "$line"; sleep 0.1; done < /proc/meminfo | head -15'
    with Container(daemon.mountpoint, bind=bind, memory=GIB) as container:
        lines = container.exec(["sh", "-c", loop]).stdout.splitlines()
    names = [line.split(b":")[0] for line in lines]
    assert names[:3] == [b"MemTotal", b"MemFree", b"MemAvailable"]
    assert len(set(names)) == 15


@pytest.mark.parametrize("bind", ["own", "host"])
def test_a_changed_limit_shows_in_a_kept_open_file(daemon: Daemon, bind: Any) -> None:
    watcher = (
        "import os\n"
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


@pytest.mark.parametrize("way", [readers.WHOLE, readers.SEND], ids=str)
def test_without_a_time_to_live_every_open_is_new(way: Way) -> None:
    with (
        Daemon("--cache-ttl", "0") as daemon,
        Container(daemon.mountpoint, memory=GIB) as container,
    ):
        # uptime has hundredths, so there are at most 50 different ones, and most are seen.
        assert len(read(container, UPTIME, way, 0.5).texts) > 25


def test_the_time_to_live_is_the_option() -> None:
    with (
        Daemon("--cache-ttl", "30") as daemon,
        Container(daemon.mountpoint, memory=GIB) as container,
    ):
        container.read(UPTIME)  # the first text may be from before the limits
        assert len(read(container, UPTIME, readers.KEPT).texts) == 1


def test_a_longer_text_is_sent_whole(sabotage: Any, tmp_path: Any) -> None:
    """BusyBox's cat sends a file without asking how long it is."""
    length = tmp_path / "length"
    length.write_text("100")
    body = f"return b'x' * int(open({str(length)!r}).read()) + b'\\n'"
    with (
        Daemon(env=sabotage("proc/uptime", body)) as daemon,
        Container(daemon.mountpoint, memory=GIB) as container,
    ):

        def sent() -> bytes:
            return read(container, UPTIME, readers.SEND, 0).texts[-1]

        assert sent() == b"x" * 100 + b"\n"
        length.write_text("300")
        wait_until(lambda: sent().rstrip() == b"x" * 300, DEADLINE_S, what="the longer text")
        assert sent().endswith(b"\n")
