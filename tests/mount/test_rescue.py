"""The rescue server in the place of real ones, with containers that read."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.kit.container import Container
from tests.kit.daemon import DEADLINE_S, ROOT, Daemon

LIMIT = 256 << 20
ONLINE = Path("/sys/devices/system/cpu/online")
#: What the log has to say of servers that fail.
EXPECTED = ("the server", "no server", "correct the cause")
#: Servers exit while the file exists: as where an upgrade is broken.
BROKEN = """
import os, sys
if sys.argv[:1] == ["-m"] and "serve" in sys.orig_argv and os.path.exists({flag!r}):
    os._exit(7)
"""
#: Reads whole files over and over; ends with a line for whatever is not one of two.
READER = """
import os, re, sys
path, host, own = sys.argv[1], re.compile(sys.argv[2].encode()), re.compile(sys.argv[3].encode())
seen = set()
while not os.path.exists("{stop}"):
    with open(path, "rb", buffering=0) as file:
        text = file.read()
    kind = "own" if own.search(text) else "host" if host.search(text) else repr(text)
    if kind not in seen:
        seen.add(kind)
        print(kind, flush=True)
"""


@pytest.fixture
def flag(tmp_path: Path) -> Path:
    path = tmp_path / "broken"
    (tmp_path / "sitecustomize.py").write_text(BROKEN.format(flag=str(path)))
    return path


@pytest.fixture
def broken(tmp_path: Path, flag: Path) -> Iterator[Daemon]:
    """A daemon that starts well, and whose servers fail while `flag` exists."""
    env = {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    with Daemon("--max-failures", "2", env=env, expect_log=EXPECTED) as daemon:
        yield daemon


def give_up(daemon: Daemon, flag: Path) -> None:
    count = daemon.log.count("the mount is kept")
    flag.touch()
    os.kill(daemon.server, signal.SIGKILL)
    wait_until(
        lambda: daemon.log.count("the mount is kept") > count, DEADLINE_S, what="the rescue server"
    )


def recover(daemon: Daemon, flag: Path) -> None:
    count = daemon.servers_ready()
    flag.unlink()
    os.kill(daemon.keeper, signal.SIGUSR1)
    wait_until(lambda: daemon.servers_ready() > count, DEADLINE_S, what="a server")


def total(text: bytes) -> int:
    return int(text.split()[1]) * 1024


def test_a_container_sees_the_host_until_there_is_a_server_again(
    broken: Daemon, flag: Path
) -> None:
    host = total(Path("/proc/meminfo").read_bytes())
    with Container(broken.mountpoint, memory=LIMIT, cpus=1) as container:
        own = container.read("/proc/meminfo")
        assert total(own) == LIMIT
        for _ in range(2):
            give_up(broken, flag)
            # Texts that the server told of are good for 0.1 s, whoever answers after it.
            wait_until(
                lambda: total(container.read("/proc/meminfo")) == host,
                DEADLINE_S,
                what="the host's memory",
            )
            wait_until(
                lambda: container.read(str(ONLINE)) == ONLINE.read_bytes(),
                DEADLINE_S,
                what="the host's CPUs",
            )
            assert b"cpu0" in container.exec(["ls", "/sys/devices/system/cpu"]).stdout
            recover(broken, flag)
            assert total(container.read("/proc/meminfo")) == LIMIT
            assert container.read("/sys/devices/system/cpu/online") == b"0\n"


def test_a_container_that_starts_meanwhile_sees_the_host(broken: Daemon, flag: Path) -> None:
    host = total(Path("/proc/meminfo").read_bytes())
    give_up(broken, flag)
    for bind in ("own", "host"):
        with Container(broken.mountpoint, memory=LIMIT, bind=bind) as container:
            assert total(container.read("/proc/meminfo")) == host
    recover(broken, flag)
    with Container(broken.mountpoint, memory=LIMIT) as container:
        assert total(container.read("/proc/meminfo")) == LIMIT


def test_readers_see_one_or_the_other_and_no_error(
    broken: Daemon, flag: Path, tmp_path: Path
) -> None:
    host = Path("/proc/meminfo").read_bytes().splitlines()[0].decode()
    own = f"MemTotal: +{LIMIT // 1024} kB"
    stop = tmp_path / "stop"
    with (
        Container(broken.mountpoint, memory=LIMIT) as container,
        Container(broken.mountpoint, memory=LIMIT, bind="host") as foreign,
    ):
        script = READER.replace("{stop}", str(stop))
        readers = [
            where.popen(
                ["python3", "-S", "-c", script, "/proc/meminfo", host, own],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for where in (container, foreign)
        ]
        for _ in range(3):
            give_up(broken, flag)
            assert container.read("/proc/uptime").count(b".") == 2
            recover(broken, flag)
            assert total(container.read("/proc/meminfo")) == LIMIT
        stop.touch()
        for reader in readers:
            out, errors = reader.communicate(timeout=DEADLINE_S)
            assert (reader.returncode, errors) == (0, "")
            assert set(out.split("\n")) <= {"own", "host", ""}
