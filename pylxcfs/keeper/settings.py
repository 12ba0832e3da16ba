"""The keeper's own arguments.

    --mountpoint M --runtime-dir R --pidfile P --config-fd N [--pid-fd N] [--watchdog S]
    [--max-failures N] [--keep-mounted] [--companion] [--metrics] [--seccomp-agent] [--devices]
    [--resources] --files F1,F2,... -- SERVER COMMAND...

cli/launch.py checks the values and writes them. The configuration document is behind --config-fd;
--files are the host's files of the views, in the order of their table; with --devices the
directories of devices are served, too. The process that starts the keeper locks the pid file;
--pid-fd only keeps that lock. The last word of the server's command is replaced by `resolve` to get
the one that reads the configuration again, and by `companion FD` for the process that heals and
attaches containers, by `metrics FD` for the one that Prometheus reads, by `agent FD...` for the
one that answers system calls, and by `answer-resources FD...` for the resources service.
Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple


class Settings(NamedTuple):
    """The options that concern the keeper, and the server's command."""

    mountpoint: str
    runtime_dir: str
    pidfile: str
    server: tuple[str, ...]
    config_fd: int
    files: tuple[str, ...] = ()
    pid_fd: int = -1
    watchdog: float = 2.0
    max_failures: int = 5
    devices: bool = False
    keep_mounted: bool = False
    companion: bool = False
    metrics: bool = False
    seccomp_agent: bool = False
    resources: bool = False

    @property
    def caller_mountpoint(self) -> str:
        """Return where the caller mount is."""
        return os.path.join(self.runtime_dir, "caller")


def _files(value: str) -> tuple[str, ...]:
    return tuple(filter(None, value.split(",")))


_READERS: dict[str, Callable[[str], Any]] = {
    "config_fd": int,
    "pid_fd": int,
    "watchdog": float,
    "max_failures": int,
    "files": _files,
}


_SWITCHES = frozenset(
    {"keep_mounted", "companion", "metrics", "seccomp_agent", "resources", "devices"}
)


def parse(argv: list[str]) -> Settings:
    """Return the settings that the arguments say."""
    split = argv.index("--")
    values: dict[str, Any] = {}
    words = iter(argv[:split])
    for word in words:
        name = word.removeprefix("--").replace("-", "_")
        values[name] = True if name in _SWITCHES else _READERS.get(name, str)(next(words))
    return Settings(server=tuple(argv[split + 1 :]), **values)
