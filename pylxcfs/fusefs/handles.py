"""The texts that open files keep, each from its read at offset 0 until it comes back there.

Bounded in bytes: a container may keep thousands of files open, and what they hold is charged to
the daemon. A handle that lost its text renders again when it is read. Knows no file.
"""

from __future__ import annotations

from typing import Final

_BUDGET: Final = 64 << 20


class Handles:
    """Open handles of this server, with their texts."""

    def __init__(self, budget: int = _BUDGET) -> None:
        self._budget = budget
        self._held = 0
        self._open: set[int] = set()
        self._texts: dict[int, bytes] = {}

    def __contains__(self, handle: int) -> bool:
        return handle in self._open or handle in self._texts

    def __len__(self) -> int:
        return len(self._open | self._texts.keys())

    def open(self, handle: int) -> None:
        """Note a new handle, which has no text yet."""
        self._open.add(handle)

    def text(self, handle: int) -> bytes | None:
        """Return the text that the handle keeps."""
        return self._texts.get(handle)

    def keep(self, handle: int, text: bytes) -> None:
        """Give a handle its text; the ones that got theirs first lose it if it is too much."""
        self._drop(handle)
        self._texts[handle] = text
        self._held += len(text)
        while self._held > self._budget and len(self._texts) > 1:
            self._drop(next(iter(self._texts)))

    def release(self, handle: int) -> None:
        """Forget a handle."""
        self._open.discard(handle)
        self._drop(handle)

    def _drop(self, handle: int) -> None:
        text = self._texts.pop(handle, None)
        if text is not None:
            self._held -= len(text)
