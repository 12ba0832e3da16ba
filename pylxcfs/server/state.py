"""The state file: JSON that one server leaves for the next.

Knows nothing of the values (handover.py does). The file is a convenience: one that is missing,
broken or of another version leads to a fresh start.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import stat
from collections.abc import Mapping
from typing import Any, Final, NoReturn

FORMAT: Final = 1

#: Bytes. 1,500 containers on a machine with 512 CPUs need 60 MB.
_MOST_BYTES: Final = 1 << 26
#: Numbers are below this, so that none can be out of range in a later sum or in C.
_TOO_LARGE: Final = 1 << 63
_MOST_DIGITS: Final = len(str(_TOO_LARGE))

_log = logging.getLogger(__name__)


class StateFile:
    """The state file at `path`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._failing = False

    def load(self) -> dict[str, Any]:
        """Return the values of the last `save`.

        A file that is not usable is one warning and {}. A file that does not exist is no warning.
        """
        try:
            return _parse(_read(self._path))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError, MemoryError) as error:
            _log.warning("starting without the state of %s: %s", self._path, error)
            return {}

    def save(self, values: Mapping[str, Any]) -> bool:
        """Replace the file in one step; return whether that succeeded.

        It is readable by root only. The first failure in a row is a warning.
        """
        try:
            _replace(self._path, json.dumps({"format": FORMAT, **values}, separators=(",", ":")))
        except OSError as error:
            if not self._failing:
                _log.warning("state not saved to %s: %s", self._path, error.strerror)
            self._failing = True
        else:
            self._failing = False
        return not self._failing


def _read(path: str) -> bytes:
    # A FIFO in its place would make open(2) wait.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if found.st_size > _MOST_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return file.read(_MOST_BYTES)


def _parse(text: bytes) -> dict[str, Any]:
    values = json.loads(
        text, parse_constant=_refuse, parse_int=_parse_int, parse_float=_parse_float
    )
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise ValueError("another format")
    return values


def _parse_int(text: str) -> int:
    if len(text) > _MOST_DIGITS or abs(number := int(text)) >= _TOO_LARGE:
        _refuse(text)
    return number


def _parse_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number) or abs(number) >= _TOO_LARGE:
        _refuse(text)
    return number


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"number out of range: {text[:_MOST_DIGITS]}")


def _replace(path: str, text: str) -> None:
    temporary = f"{path}.{os.getpid()}.new"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
