"""The state file: what one server leaves for the next, as JSON with a format version.

What is in it is the daemon's business. It is never more than a convenience: a file that is
missing, broken or of another version is a fresh start.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from typing import Any

FORMAT = 1

_log = logging.getLogger(__name__)


def save(path: str, content: Mapping[str, Any]) -> None:
    """Replace the file in one step, readable by root only; raise OSError if that fails."""
    temporary = f"{path}.{os.getpid()}.new"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump({"format": FORMAT, **content}, file, separators=(",", ":"))
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def load(path: str) -> dict[str, Any]:
    """Return what `save` was given, or {} with a warning if that cannot be made out."""
    try:
        with open(path, "rb") as file:
            content = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        _log.warning("state file %s is not usable, starting without: %s", path, error)
        return {}
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        _log.warning("state file %s is of another format, starting without", path)
        return {}
    return content
