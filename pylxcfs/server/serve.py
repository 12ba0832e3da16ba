"""`python -m pylxcfs serve`: how a process becomes a server. The keeper starts it.

    serve --config-fd N --own-fd A --own-memory-fd B --caller-fd C --caller-memory-fd D
          --heartbeat-fd H

The mounts are the keeper's and stay when a server ends. click is not loaded: readers wait for this
start when a server was killed.
"""

from __future__ import annotations

import faulthandler
import fcntl
import os
import resource
import signal
import sys
import threading
from typing import NoReturn

from pylxcfs import log
from pylxcfs.server import settings
from pylxcfs.server.heartbeat import HEALTHY, beat
from pylxcfs.server.server import Descriptors, Server

#: The interpreter's default of 5 ms is what a reader would wait while a load is counted.
_SWITCH_INTERVAL_S = 0.0005

#: Descriptors for 500 containers; the table of so many takes 128 KiB of the kernel's memory.
_TABLE = 16384


def main() -> NoReturn:
    """Serve until a connection ends or SIGTERM comes (exit code 0)."""
    numbers = dict(zip(sys.argv[2::2], map(int, sys.argv[3::2]), strict=True))
    config = numbers["--config-fd"]
    options = settings.read(config)
    log.setup(options.log_level)
    faulthandler.enable()
    faulthandler.register(signal.SIGQUIT, all_threads=True)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    _raise_descriptor_limit()
    _widen_descriptor_table(config)
    ended = threading.Event()
    names = ("own", "own-memory", "caller", "caller-memory")
    descriptors = Descriptors(*(numbers[f"--{name}-fd"] for name in names))
    heartbeat = numbers["--heartbeat-fd"]
    server = Server(options, descriptors, ended.set)
    beat(heartbeat, HEALTHY)  # a rescue server ends at this: the two must not both answer
    server.begin()
    # Readers are served from here on. The rest takes as long to load as everything before it.
    import trio

    from pylxcfs.server import tasks

    trio.run(tasks.run, server, ended, config, heartbeat)
    server.computation.save_state()
    sys.exit(0)


def _raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _widen_descriptor_table(descriptor: int) -> None:
    """Make room for descriptors while this process has one thread.

    With more of them the kernel waits for all CPUs (expand_fdtable in fs/file.c calls
    synchronize_rcu) each time the table doubles, and a reader with it: 10 to 30 ms.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, min(soft, _TABLE) - 1))
