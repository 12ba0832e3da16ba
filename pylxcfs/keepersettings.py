"""The keeper's own arguments.

    --mountpoint M --runtime-dir R --pidfile P [--pid-fd N] [--watchdog S] [--max-failures N]
    [--keep-mounted] -- SERVER COMMAND...

The pid file is locked by who starts the keeper; --pid-fd only keeps that lock. They are written
by launch.py, and therefore not checked for sense. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Settings:
    """The options that concern the keeper, and the server's command."""

    mountpoint: str = ""
    runtime_dir: str = ""
    pidfile: str = ""
    pid_fd: int = -1
    watchdog: float = 10.0
    max_failures: int = 5
    keep_mounted: bool = False
    server: tuple[str, ...] = ()


def parse(argv: list[str]) -> Settings:
    """Return the settings that the arguments say."""
    split = argv.index("--")
    settings = Settings(server=tuple(argv[split + 1 :]))
    words = iter(argv[:split])
    for word in words:
        name = word.removeprefix("--").replace("-", "_")
        if name == "keep_mounted":
            settings.keep_mounted = True
        else:
            setattr(settings, name, type(getattr(settings, name))(next(words)))
    return settings
