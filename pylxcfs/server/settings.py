"""The options that a server needs, read from the configuration document.

The document is JSON and resolved: the command line has merged flags, variables and the config
file already (`pylxcfs.cli.options`). Keys that are not known are ignored and keys that are
missing take the defaults, so that servers and keepers of two versions can hand each other
documents. Knows neither flags nor TOML.
"""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass, fields
from typing import Any

from pylxcfs.errors import DocumentError

#: The value of "format". A document that an older version cannot read gets another one.
FORMAT = 1

#: The keeper truncates and rewrites the document in place: a read may fall in between.
_TRIES = 10
_PAUSE_S = 0.02
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of a server. The command line has checked the values."""

    mountpoint: str = "/var/lib/pylxcfs"
    runtime_dir: str = "/run/pylxcfs"
    cache_ttl: float = 0.1
    request_timeout: float = 2.0
    watchdog: float = 2.0
    cpu_view: str = "quota"
    cpu_numbering: str = "physical"
    sys_cpu: str = "offline"
    loadavg: bool = True
    disable_swap: bool = False
    disable_zswap: bool = False
    vmstat: bool = False
    enable_devices: bool = False
    enable_psi_poll: bool = False
    enable_cgroup: bool = False
    init_pid_method: str = "auto"
    max_containers: int = 5000
    log_level: str = "info"
    fuse_options: tuple[str, ...] = ()

    @classmethod
    def parse(cls, document: bytes) -> Settings:
        """Read a configuration document; raise DocumentError if it is none."""
        options = load(document)["options"]
        known: dict[str, Any] = {
            field.name: _typed(field.name, field.default, options[field.name])
            for field in fields(cls)
            if field.name in options
        }
        return cls(**known)


def read(descriptor: int) -> Settings:
    """Read the document behind a descriptor, from its beginning."""
    for _ in range(_TRIES - 1):
        try:
            return Settings.parse(os.pread(descriptor, _MAX_BYTES, 0))
        except DocumentError:
            time.sleep(_PAUSE_S)
    return Settings.parse(os.pread(descriptor, _MAX_BYTES, 0))


def load(document: bytes) -> dict[str, Any]:
    """Return the document, with a table "options"; raise DocumentError."""
    try:
        content = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"not a configuration document: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DocumentError(f'not a configuration document: no "format": {FORMAT} in it')
    if not isinstance(content.get("options"), dict):
        raise DocumentError('not a configuration document: no table "options" in it')
    return content


def _typed(name: str, default: object, value: object) -> object:
    """Return the value in the type of the default, or raise DocumentError."""
    if isinstance(default, tuple) and isinstance(value, list):
        value = tuple(value)
        right = all(isinstance(item, str) for item in value)
    elif isinstance(default, float) and isinstance(value, int | float):
        right = not isinstance(value, bool) and math.isfinite(value)
        value = float(value) if right else value
    else:
        right = type(value) is type(default)
    if not right:
        raise DocumentError(f"configuration document: {name} cannot be {value!r}")
    return value
