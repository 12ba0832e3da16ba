"""Reload: a `resolve` child makes the new configuration document.

    stdin     the document that holds now
    stdout    the new document: live options are new, others are as they were
    stderr    a line for each change, or what is wrong

All three are memfds, so that neither side waits for the other. Standard library only.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence

from pylxcfs.keeper import child

_MOST_BYTES = 1 << 20
#: Lines of the child's that are logged.
_MOST_LINES = 50


class Resolver:
    """The child; `document` and `lines` are there when it has ended."""

    def __init__(self, command: Sequence[str], config_fd: int) -> None:
        self._files = [os.memfd_create(f"pylxcfs-resolve-{i}", os.MFD_CLOEXEC) for i in range(3)]
        try:
            os.write(self._files[0], os.pread(config_fd, _MOST_BYTES, 0))
            os.lseek(self._files[0], 0, os.SEEK_SET)
            stdio = dict(enumerate(self._files))
            self.child = child.fork(lambda: child.execute(command, [], stdio))
        except OSError:
            self._close()
            raise
        self.document = b""
        self.lines: list[str] = []

    def end(self) -> int:
        """Reap it and take what it has written; return its exit code."""
        code = self.child.reap()
        self.document = os.pread(self._files[1], _MOST_BYTES, 0)
        text = os.pread(self._files[2], _MOST_BYTES, 0).decode(errors="replace")
        self._close()
        lines = [re.sub(r"^(<\d>)?(pylxcfs: )?", "", line) for line in text.splitlines()]
        self.lines = [line for line in lines if line][:_MOST_LINES]
        return code

    def is_document(self) -> bool:
        """Tell whether it has written a configuration document."""
        try:
            content = json.loads(self.document)
        except (ValueError, RecursionError):
            return False
        return isinstance(content, dict) and isinstance(content.get("options"), dict)

    def _close(self) -> None:
        for number in self._files:
            os.close(number)


def replace_document(config_fd: int, document: bytes) -> None:
    """Put another document into the memfd that servers read."""
    os.ftruncate(config_fd, 0)
    os.pwrite(config_fd, document, 0)
