"""Opening again what the same thread has just opened, in the same way: the shortest one.

What a monitoring agent does all day. After a pause of ten milliseconds it is the length of the
code, not of the work, that its reader waits for, as nothing is in the processor's caches any more:
so all of it is here, in two methods that call nobody while nothing has changed.

Knows no messages; what may be opened how is concluded elsewhere (`allow`, `repeat`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from pylxcfs.fusefs.callers import Callers
from pylxcfs.fusefs.handles import Handles
from pylxcfs.fusefs.newcomers import Newcomers
from pylxcfs.fusefs.nodes import CACHED, SERIAL_MASK
from pylxcfs.fusefs.snapshots import Snapshots

#: Flags of open(2) with which a file is not read through the page cache.
_OTHERWISE: Final = os.O_ACCMODE | os.O_DIRECT

#: The part of a rendering's life, an eighth at its end, in which the next one may be made.
_LAST_PART: Final = 8


class Reopens:
    """All of one mount. `serials` are those of its handles."""

    def __init__(
        self,
        callers: Callers,
        newcomers: Newcomers,
        snapshots: Snapshots,
        handles: Handles,
        serials: Iterator[int],
    ) -> None:
        self._callers = callers
        self._handles = handles
        #: The text that a handle keeps, if it keeps one.
        self.text = handles.text
        self._newcomers = newcomers
        self._snapshots = snapshots
        self._serials = serials
        self._clock = snapshots.clock
        self._recent = snapshots.recent
        self._cached = newcomers.cached
        #: Nodes that known threads may open through the page cache without another look, by
        #: thread, with their handles but for the serial. Cleared whenever anything ends or changes
        #: that this was concluded from.
        self._allowed: dict[int, dict[int, int]] = {}
        #: By node, who has opened it last: the thread, its handles but for the serial, and until
        #: when all that `_look` or Filesystem.open asks need not be asked.
        self._last: dict[int, tuple[int, int, int]] = {}
        #: The node that was opened last, if its text ends soon; or 0.
        self._ending = 0
        #: Cached handles that keep a text all the same, as they were given O_DIRECT later.
        self.with_text: set[int] = set()

    def open(self, node: int, pid: int, flags: int) -> int:
        """Return a handle, of the kind that the thread had last; or 0.

        A cached one reads the pages that the kernel has kept.
        """
        now_ns = self._clock()
        last = self._last.get(node)
        if last is not None and last[0] == pid and now_ns < last[2] and not flags & _OTHERWISE:
            handle = last[1]
        else:
            handle = self._look(node, pid, flags, now_ns)
            if not handle:
                return 0
        handle |= next(self._serials) & SERIAL_MASK
        if not handle & CACHED:
            # The node may be everybody's, so whose thread this is must not be a moment old.
            self._callers.refresh()
            if self._last.get(node) is not last or handle in self._handles:  # serials come round
                return 0
            self._handles.open(handle)
            return handle
        handles = self._cached.get(node)
        if handles is None:
            self._cached[node] = {handle}
        elif handle in handles:
            return 0
        else:
            handles.add(handle)
        text = self._recent.get(node)
        if text is not None:
            left_ns = text.expires_ns - now_ns
            if 0 < left_ns < self._snapshots.ttl_ns // _LAST_PART:
                self._ending = node
        return handle

    def close(self, node: int, handle: int) -> bool:
        """Forget a handle that never was a newcomer's, nor a trigger's.

        True: its text was about to end when it was opened, so the next one may be made now that
        nobody waits for it, and is likely to be wanted.
        """
        if not handle & CACHED:
            self._handles.release(handle)
            return False
        handles = self._cached.get(node)
        if handles is not None:
            handles.discard(handle)
            if not handles:
                self._cached.pop(node, None)
        if self.with_text and handle in self.with_text:
            self.with_text.discard(handle)
            self._handles.release(handle)
        if node != self._ending:
            return False
        self._ending = 0
        return True

    def allow(self, node: int, pid: int, handle: int) -> None:
        """Note that a thread may open a node through the cache: its handle but for the serial."""
        self._allowed.setdefault(pid, {})[node] = handle

    def repeat(self, node: int, pid: int, handle: int) -> None:
        """Note how a node was opened past the cache, which is right for a moment in any case."""
        left_ns = self._callers.refresh_lately()
        self._last[node] = pid, handle & ~SERIAL_MASK, self._clock() + left_ns

    def look_again(self) -> None:
        """Ask at the next open what may be different from the last one's."""
        self._last.clear()

    def forget(self, pid: int) -> None:
        """Forget what is allowed to a thread."""
        self._allowed.pop(pid, None)
        self._last.clear()

    def clear(self) -> None:
        """Forget what is allowed to anybody."""
        self._allowed.clear()
        self._last.clear()

    def _look(self, node: int, pid: int, flags: int, now_ns: int) -> int:
        """Return the handle but for its serial, 0 if the node cannot be opened so."""
        known = self._allowed.get(pid)
        if known is None or node not in known or flags & _OTHERWISE:
            return 0
        left_ns = self._callers.refresh_lately()
        fresh_until_ns = self._snapshots.fresh_until(node)
        if node in self._newcomers or now_ns >= fresh_until_ns:
            return 0
        handle = known[node]
        self._last[node] = pid, handle, min(now_ns + left_ns, fresh_until_ns)
        if self._allowed.get(pid) is not known:  # forgotten meanwhile
            self._last.pop(node, None)
            return 0
        return handle
