"""The keeper's own arguments.

    --mountpoint M --runtime-dir R --pidfile P [--pid-fd N] [--watchdog S] [--max-failures N]
    [--keep-mounted] -- SERVER COMMAND...

The pid file is locked by who starts the keeper; --pid-fd only keeps that lock. They are written
by launch.py, and therefore not checked for sense. Standard library only.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Settings(NamedTuple):
    """The options that concern the keeper, and the server's command."""

    mountpoint: str
    runtime_dir: str
    pidfile: str
    server: tuple[str, ...]
    pid_fd: int = -1
    watchdog: float = 10.0
    max_failures: int = 5
    keep_mounted: bool = False


_READERS = {"pid_fd": int, "watchdog": float, "max_failures": int}


def parse(argv: list[str]) -> Settings:
    """Return the settings that the arguments say."""
    split = argv.index("--")
    values: dict[str, Any] = {}
    words = iter(argv[:split])
    for word in words:
        name = word.removeprefix("--").replace("-", "_")
        values[name] = True if name == "keep_mounted" else _READERS.get(name, str)(next(words))
    return Settings(server=tuple(argv[split + 1 :]), **values)
