"""Crowds and oddities that a container can make: they cost nobody else an answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from tests.kit.daemon import Daemon

#: Asks for what goes through pyfuse3, from many threads at once, and counts the errors.
_CROWD = """
import os, sys, threading
errors = []
def ask():
    try:
        os.statvfs(sys.argv[1])
    except OSError as error:
        errors.append(error.errno)
threads = [threading.Thread(target=ask) for _ in range(600)]
for thread in threads:
    thread.start()
print("asked", flush=True)
for thread in threads:
    thread.join()
print(errors)
"""


def test_a_crowd_of_rare_requests_waits_and_gets_no_error() -> None:
    with Daemon() as daemon:
        server = daemon.server
        os.kill(server, signal.SIGSTOP)
        command = [sys.executable, "-c", _CROWD, str(daemon.mountpoint)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as crowd:
            assert crowd.stdout is not None
            try:
                assert crowd.stdout.readline() == b"asked\n"
            finally:
                os.kill(server, signal.SIGCONT)
            assert crowd.communicate(timeout=60)[0] == b"[]\n"
