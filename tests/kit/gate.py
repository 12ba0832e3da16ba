"""A gate in the way of a thread that is under test: it passes as often as the test lets it.

Where a test would measure how long something takes, it stops the thread in the middle instead,
and looks at what goes on without it.
"""

from __future__ import annotations

import threading


class Gate:
    """Called by the thread; blocks until `let` has allowed the call."""

    def __init__(self) -> None:
        #: Set while the thread is stopped, or was since the last `let`.
        self.reached = threading.Event()
        self._left = 0
        self._changed = threading.Condition()

    def __call__(self) -> None:
        with self._changed:
            if self._left == 0:
                self.reached.set()
            self._changed.wait_for(lambda: self._left > 0)
            self._left -= 1

    def let(self, calls: int) -> None:
        """Let the thread pass so many times more."""
        with self._changed:
            self.reached.clear()
            self._left += calls
            self._changed.notify_all()
