"""The log on stderr, and the end of a command that fails.

Where stderr is the journal, lines begin with its priorities. Modules log to
`logging.getLogger(__name__)`. The keeper does not use this module: it writes its few lines itself,
to stay small.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn

from pylxcfs.errors import UserError
from pylxcfs.keeper.sdnotify import stderr_is_journal

_PRIORITIES = (
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.DEBUG, 7),
)


class Formatter(logging.Formatter):
    """`pylxcfs: WARNING: text`; each line of a traceback has the priority."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        word = "" if record.levelno == logging.INFO else f"{record.levelname}: "
        text = f"pylxcfs: {word}{super().format(record)}"
        if not self._journal:
            return text
        priority = next((p for level, p in _PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in text.splitlines())


def setup(level: str) -> None:
    """Send the log to stderr, and nowhere else."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter(journal=stderr_is_journal(os.environ)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)


def set_level(level: str) -> None:
    """Set the least level that is logged: error, warning, info, debug."""
    logging.getLogger().setLevel(level.upper())


def fail(error: UserError) -> NoReturn:
    """Print message and hint, a line each; exit with the error's code."""
    message = " ".join(str(error).split())
    sys.stderr.write(f"pylxcfs: {message}\npylxcfs: {error.hint}\n")
    sys.exit(error.exit_code)
