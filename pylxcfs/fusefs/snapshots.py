"""What was rendered last, for how long it may be shown, and what the kernel was told of it.

Two tables. `recent` lets many readers of one container share a rendering for the time-to-live.
`shown` is, for nodes whose pages the kernel caches, the one snapshot whose size and mtime it
knows: pages are filled from that and from nothing else, so a page and its size always belong
together. Both are keyed by the node id of the container's own node. Sizes outlive this server
(sizes.py). Renders nothing itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from pylxcfs.fusefs.sizes import Sizes
from pylxcfs.views.model import Container

#: Views longer than a page are never cached: two pages could come from two snapshots.
PAGE: Final = 4096

#: A cached node that nobody has asked about for so long goes back to plain attributes.
_FORGET_NS: Final = 10 * 1_000_000_000

#: Whoever reads the same file over and over has asked a new server by then.
_HEARD_NS: Final = 60 * 1_000_000_000

#: A page is kept for so long at most, however long its text stays the same.
_SAME_NS: Final = 1_000_000_000

#: Texts that have grown while they were cached measure a multiple of this.
_ROOM: Final = 32

#: Lengthens a text to so many bytes without a change of meaning.
Pad = Callable[[bytes, int], bytes]


def _with_room(length: int) -> int:
    """Round up, but not past the page."""
    return max(length, min(-(-length // _ROOM) * _ROOM, PAGE))


class Snapshot:
    """One rendering: its bytes, until when it may be shown (monotonic), its mtime, its origin."""

    __slots__ = ("container", "data", "expires_ns", "mtime_ns", "told_ns", "told_to")

    def __init__(
        self, data: bytes, expires_ns: int, mtime_ns: int, container: Container | None
    ) -> None:
        self.data = data
        self.expires_ns = expires_ns
        self.mtime_ns = mtime_ns
        self.container = container
        #: Which thread asked when the kernel was told of this last, and when.
        self.told_to = 0
        self.told_ns = 0


class Snapshots:
    """Snapshots that live `ttl_ns` each, or some times that; 0 keeps none."""

    def __init__(self, ttl_ns: int, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.ttl_ns = ttl_ns
        self.clock = clock
        self.sizes = Sizes()
        #: Called when the kernel is told another size of a node than before.
        self.on_resized: Callable[[], object] = lambda: None
        #: Until then a container may live of which this server has not heard yet.
        self._heard_of_all_ns = 0
        self._recent: dict[int, Snapshot] = {}
        self._shown: dict[int, Snapshot] = {}

    def recover(self, memory: int) -> None:
        """Know which sizes the server before has told, which are in this memfd. Raise OSError."""
        self.sizes.use(memory)
        self._heard_of_all_ns = self.clock() + _HEARD_NS

    def alive(self, node: int) -> Snapshot | None:
        """Return the snapshot that may still be shown."""
        snapshot = self._recent.get(node)
        if snapshot is not None and self.clock() < snapshot.expires_ns:
            return snapshot
        return None

    def last(self, node: int) -> Snapshot | None:
        """Return the last snapshot, whether it may still be shown or not."""
        return self._recent.get(node)

    def keep(
        self,
        node: int,
        data: bytes,
        container: Container | None,
        pad: Pad | None,
        lives: int = 1,
    ) -> Snapshot:
        """Make `data` the node's snapshot, for so many times the time-to-live.

        Where the kernel caches the node, the text is lengthened to what its last one measured:
        a reader that has the old size and the new page would otherwise miss the end. For the same
        reason a text that outgrows it gets room for more: sizes change seldom. A text that
        is the same as before keeps its mtime, and with that the kernel its page; unless there was
        another in between, which a sendfile(2) past us may have put there, and never for long, as
        the page may be an answer to a request that had failed.
        """
        before = self._shown.get(node)
        last = self._recent.get(node)
        told = self._told(node)
        if told and pad is not None:
            if len(data) < told:
                data = pad(data, told)
            elif len(data) > told:
                data = pad(data, _with_room(len(data)))
        mtime_ns = time.time_ns()
        if (
            before is not None
            and last is not None
            and last.mtime_ns == before.mtime_ns > mtime_ns - _SAME_NS
            and before.container is container
            and before.data == data
        ):
            mtime_ns = before.mtime_ns
        snapshot = Snapshot(data, self.clock() + self.ttl_ns * lives, mtime_ns, container)
        if self.ttl_ns:
            self._recent[node] = snapshot
        return snapshot

    def length(self, node: int) -> int | None:
        """Return how long the node's last rendering is; None if there is none."""
        snapshot = self._recent.get(node)
        return None if snapshot is None else len(snapshot.data)

    def shown(self, node: int) -> Snapshot | None:
        """Return what the kernel was told last."""
        return self._shown.get(node)

    def is_shown(self, node: int) -> bool:
        """Whether the kernel was told of a text of this node, if only by the server before."""
        return node in self._shown or self.sizes.get(node) > 0

    def again(self, node: int, snapshot: Snapshot, pad: Pad | None) -> Snapshot:
        """Return what to show so that the kernel has this text though it was told of another.

        It measures no less than that one: an answer may come too late to be heeded, and the page
        is then read with the size of the other.
        """
        before = self._shown.get(node)
        if before is snapshot:
            return snapshot
        data = snapshot.data
        if pad is not None:
            data = pad(data, self._told(node))
        if before is None and data == snapshot.data:
            return snapshot
        return Snapshot(data, snapshot.expires_ns, time.time_ns(), snapshot.container)

    def _told(self, node: int) -> int:
        """Return the size that the kernel was told last, if only by the server before; or 0."""
        before = self._shown.get(node)
        return self.sizes.get(node) if before is None else len(before.data)

    def lengthened(self, node: int, snapshot: Snapshot, pad: Pad | None) -> Snapshot:
        """Return the node's snapshot, no shorter than what the kernel was told last."""
        before = self._shown.get(node)
        if pad is None or before is None or len(snapshot.data) >= len(before.data):
            return snapshot
        data = pad(snapshot.data, len(before.data))
        longer = Snapshot(data, snapshot.expires_ns, time.time_ns(), snapshot.container)
        self._recent[node] = longer
        return longer

    def show(self, node: int, snapshot: Snapshot) -> None:
        """Note that the kernel is told of this snapshot now."""
        if self.sizes.told(node, len(snapshot.data)):
            self.on_resized()
        self._shown[node] = snapshot

    def drop(self, node: int) -> None:
        """Forget a node: the next container with its number must not see this one's."""
        self._recent.pop(node, None)
        self._shown.pop(node, None)
        self.sizes.drop(node)

    def has(self, node: int) -> bool:
        """Whether anything is kept of a node."""
        return node in self._recent or node in self._shown

    def belongs(self, node: int, container: Container | None) -> bool:
        """Whether what is kept of the node, if anything, came from this very container."""
        snapshot = self._recent.get(node) or self._shown.get(node)
        return snapshot is None or snapshot.container is container

    def clear(self) -> None:
        """Forget all renderings, so that the next read shows a changed policy."""
        self._recent.clear()

    def sweep(self, is_alive: Callable[[int], bool]) -> None:
        """Drop what nobody has asked for lately and what belongs to containers that ended."""
        old = self.clock() - _FORGET_NS
        for table in (self._recent, self._shown):
            for node, snapshot in list(table.items()):
                if snapshot.expires_ns < old or not is_alive(node):
                    table.pop(node, None)
        if self.clock() >= self._heard_of_all_ns:
            self.sizes.drop_unless(is_alive)

    def __len__(self) -> int:
        return len(self._recent) + len(self._shown)
