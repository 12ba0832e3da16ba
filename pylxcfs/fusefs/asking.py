"""Asking how long files are, for the sake of readers that never ask.

sendfile(2), which BusyBox's `cat` uses, and mappings take what is in a page up to where the kernel
believes that its file ends. The end of an answer that is shorter than the page is what makes it
believe that (fuse_short_read, fs/fuse/file.c), and nothing but another answer to GETATTR takes it
back: a text that has grown by the next time would be cut off there. So a moment after such an
answer a thread of ours asks, as anybody may, and that is told a bound again.

Knows paths of our own mount, and nothing of what is in them.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Final

#: Who sends a file again and again is not to meet our question each time.
_PAUSE_S: Final = 0.5


class Asker(threading.Thread):
    """Sleeps while nobody reads so. `path_of` leads from a node to its path."""

    def __init__(self, mountpoint: str, path_of: Callable[[int], str | None]) -> None:
        super().__init__(name="asker", daemon=True)
        self._mountpoint = mountpoint
        self._path_of = path_of
        self._nodes: set[int] = set()
        self._wanted = threading.Event()

    def later(self, node: int) -> None:
        """Ask for a node's size in a moment; whoever says so need not wait."""
        self._nodes.add(node)
        self._wanted.set()

    def run(self) -> None:
        """Ask for what was noted, for as long as this process lives."""
        while self._wanted.wait():
            self._wanted.clear()
            time.sleep(_PAUSE_S)
            while self._nodes:
                # Its container may have ended, or the mount.
                with contextlib.suppress(OSError):
                    path = self._path_of(self._nodes.pop())
                    if path is not None:
                        os.stat(f"{self._mountpoint}/{path}")
