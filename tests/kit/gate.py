"""A gate that stops a thread under test.

A test that would otherwise measure a duration stops the thread in the middle of its work, and
checks what works without it.
"""

from __future__ import annotations

import threading


class Gate:
    """Called by the thread; blocks until `let` has allowed the call."""

    def __init__(self) -> None:
        #: Set when the thread reaches the gate; cleared by `let`.
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
        """Allow `calls` more passes."""
        with self._changed:
            self.reached.clear()
            self._left += calls
            self._changed.notify_all()
