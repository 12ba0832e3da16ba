"""Servers killed on a kernel that cannot resend (before 6.9): what may fail there, and what not.

Reads that a killed server had taken end with ECONNABORTED. Nothing else does: no other error, no
empty or torn file, no other container's values, and files that were open go on.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Literal

import pytest

from tests.kit.container import Container
from tests.kit.daemon import Daemon
from tests.mount.test_soak import STYLES, start_reader, wait_all_progress

KILLS = 3
MEMORY = 256 << 20


@pytest.mark.parametrize("bind", ["own", "host"])
def test_only_reads_in_flight_fail(bind: Literal["own", "host"], tmp_path: Path) -> None:
    with (
        Daemon(expect_log=["the server was ended"]) as daemon,
        Container(daemon.mountpoint, bind=bind, memory=MEMORY, cpus=1) as container,
    ):
        readers = [start_reader(container, MEMORY, style, tmp_path / style) for style in STYLES]
        for _ in range(KILLS):
            wait_all_progress(readers)
            server = daemon.server
            os.kill(server, signal.SIGKILL)
            daemon.wait_new_server(server)
        wait_all_progress(readers)
        reports = [reader.finish() for reader in readers]
    errors = [error for report in reports for error in report["errors"]]
    print(f"{sum(sum(r['reads'].values()) for r in reports)} reads, aborted: {len(errors)}")
    assert all("ConnectionAbortedError" in error for error in errors), "\n".join(errors)
    # Each reader has one read in flight at a time.
    assert len(errors) <= KILLS * len(readers)
