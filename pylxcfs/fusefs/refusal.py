"""The one exception of fusefs that reaches a caller: an errno."""

from __future__ import annotations

import os

from pylxcfs.errors import PylxcfsError


class Refused(PylxcfsError):
    """The caller gets `errno`."""

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.errno = number
