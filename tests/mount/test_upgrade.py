"""From the version with one mount, of this repository's history, to this one, with a container."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import require
from tests.kit.container import Container
from tests.kit.daemon import DEADLINE_S, ROOT, Daemon

#: The last commit before the caller mount.
PREVIOUS = "8a08534"
LIMIT = 256 << 20
READER = """
import os
kept, count = open("/proc/meminfo", "rb", buffering=0), 0
while not os.path.exists("{stop}"):
    for text in (os.pread(kept.fileno(), 65536, 0), open("/proc/meminfo", "rb").read()):
        assert text.startswith(b"MemTotal:") and text.endswith(b"\\n") and b"\\0" not in text, text
    count += 1
print("read" if count else "never read")
"""


@pytest.fixture
def previous(tmp_path: Path) -> Path:
    """The package as it was."""
    tree = tmp_path / "previous"
    tree.mkdir()
    archive = subprocess.run(
        ["git", "archive", PREVIOUS, "pylxcfs"], cwd=ROOT, capture_output=True, check=False
    )
    if archive.returncode != 0:
        require("history", f"commit {PREVIOUS} is not here: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "x", "-C", tree], input=archive.stdout, check=True)
    return tree


def total(text: bytes) -> int:
    return int(text.split()[1]) * 1024


def test_a_container_reads_on_and_sees_the_host_until_it_is_restarted(
    previous: Path, tmp_path: Path
) -> None:
    stop = tmp_path / "stop"
    env = {"PYTHONPATH": str(previous)}
    host = total(Path("/proc/meminfo").read_bytes())
    with Daemon(
        "--keep-mounted",
        env=env,
        python=(sys.executable, "-P"),
        expect_log=["before the upgrade"],
    ) as daemon:
        with Container(daemon.mountpoint, memory=LIMIT) as container:
            assert total(container.read("/proc/meminfo")) == LIMIT
            reader = container.popen(
                ["python3", "-S", "-c", READER.replace("{stop}", str(stop))],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for _ in range(2):
                daemon.stop()
                env["PYTHONPATH"] = str(ROOT)
                daemon.start()
                daemon.wait_ready()
                assert total(container.read("/proc/meminfo")) == host
                assert b"cpu0" in container.exec(["ls", "/sys/devices/system/cpu"]).stdout
                with Container(daemon.mountpoint, memory=LIMIT) as fresh:
                    assert total(fresh.read("/proc/meminfo")) == LIMIT
            stop.touch()
            assert reader.communicate(timeout=DEADLINE_S)[0] == "read\n"
        subprocess.run(
            [
                *(sys.executable, "-m", "pylxcfs", "unmount"),
                *("--runtime-dir", daemon.runtime_dir, daemon.mountpoint),
            ],
            cwd=ROOT,
            check=True,
            timeout=DEADLINE_S,
        )
        assert not daemon.is_mounted()
