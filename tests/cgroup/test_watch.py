"""`pylxcfs resources --watch` as the only process of a container."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import psutil

from tests.kit.asking import DEADLINE_S


def test_sigterm_ends_pid_1_of_a_pid_namespace():
    command = [
        *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
        *(sys.executable, "-m", "pylxcfs", "resources", "--watch", "--json"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["changed"] == []
            [init] = psutil.Process(process.pid).children()
            init.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_S) == 0
            assert process.stdout.read() == ""
        finally:
            process.kill()
