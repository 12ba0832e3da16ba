"""`python -m pylxcfs serve`: what the keeper starts. Options as for `mount`, read without click.

Readers wait for this start when a server was killed, and click and the definition of all
commands are a fifth of it. The words are written by launch.py, so that errors in them are bugs;
what may be wrong is the config file.
"""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

from pylxcfs import log
from pylxcfs.cli.kinds import Switch
from pylxcfs.cli.options import OPTIONS, load
from pylxcfs.errors import UserError

_DESCRIPTORS = ("--connection-fd", "--init-fd", "--heartbeat-fd")


def parse(words: list[str]) -> tuple[dict[str, Any], str | None, list[int]]:
    """Return the flags, the config file, and the descriptors of connection, INIT and heartbeat."""
    switches: dict[str, tuple[str, bool]] = {}
    others = {}
    for option in OPTIONS:
        for flag in option.flags[:1]:
            if isinstance(option.kind, Switch):
                on, _, off = flag.partition("/")
                switches |= {on: (option.name, True), off: (option.name, False)}
            else:
                others[flag] = option
    flags: dict[str, Any] = {}
    config_file = None
    numbers = dict.fromkeys(_DESCRIPTORS, -1)
    rest = iter(words)
    for word in rest:
        if word in switches:
            name, flags[name] = switches[word]
        elif word in others:
            flags[others[word].name] = others[word].kind.text(next(rest))
        elif word in numbers:
            numbers[word] = int(next(rest))
        elif word == "--config":
            config_file = next(rest)
        else:
            flags["mountpoint"] = word
    return flags, config_file, list(numbers.values())


def main() -> NoReturn:
    """Serve until the connection ends or SIGTERM comes."""
    flags, config_file, numbers = parse(sys.argv[2:])
    try:
        config = load(flags, os.environ, config_file)
        log.setup(config.log_level)
        from pylxcfs.server import serve as daemon

        code = daemon.serve(config, *numbers)
    except UserError as error:
        log.fail(error)
    sys.exit(code)
