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
from pylxcfs.views.padding import Padding

#: Views longer than a page are never cached: two pages could come from two snapshots.
PAGE: Final = 4096

#: A cached node that nobody has asked about for so long goes back to plain attributes.
_FORGET_NS: Final = 10 * 1_000_000_000

#: Whoever reads the same file over and over has asked a new server by then.
_HEARD_NS: Final = 60 * 1_000_000_000

#: For so long at least the kernel is told a size before it is told the text that has it, or after:
#: much longer than an answer is on its way.
STEP_NS: Final = 50_000_000

#: For so long a bound that was told may still be on its way to the kernel, or a page that was asked
#: for without it on its way here. Shorter than from a runtime's question to the first read of what
#: it starts, which would get newlines up to the bound.
_ON_ITS_WAY_NS: Final = 3_000_000

#: This part of a text is how much it is expected to grow when it has just grown.
_GROWS_ON: Final = 8

#: A page is kept for so long at most, however long its text stays the same.
_SAME_NS: Final = 1_000_000_000


class Snapshot:
    """One rendering: its bytes, until when it may be shown (monotonic), its mtime, its origin.

    `size` is what the kernel is told, in bytes: more than the text has while that changes.
    """

    __slots__ = ("container", "data", "expires_ns", "mtime_ns", "settles_ns", "size", "told_ns")

    def __init__(
        self,
        data: bytes,
        expires_ns: int,
        mtime_ns: int,
        container: Container | None,
        size: int = 0,
    ) -> None:
        self.data = data
        self.expires_ns = expires_ns
        self.mtime_ns = mtime_ns
        self.container = container
        self.size = max(size, len(data))
        #: When the kernel was told of it last.
        self.told_ns = 0
        #: Until then the kernel may be told of nothing else: `step`.
        self.settles_ns = 0

    def step(self, wanted: Snapshot, now_ns: int) -> Snapshot:
        """Return what to tell the kernel, which was told of this last, on the way to `wanted`.

        A size and a page never change at the same time. The kernel heeds a size and drops the page
        of the old text one after the other, and where several threads ask at once it may not heed
        an answer at all (fuse_change_attributes, fs/fuse/inode.c): who reads meanwhile would get
        the new text by the old size, or the old text and zeros. So of a text that grows the size
        is told first, if the old one may still be believed or on its way; of one that shrinks, the
        text. Who has too large a size gets newlines behind the text.
        """
        if wanted is self or self.container is not wanted.container:
            return wanted
        if wanted.size == self.size:
            settled = now_ns >= self.settles_ns or wanted.settles_ns >= self.settles_ns
            return wanted if settled else self
        if now_ns < self.settles_ns:
            return self
        if wanted.size > self.size:
            if now_ns > max(self.told_ns, self.expires_ns) + STEP_NS:
                return wanted  # and not a text that may be old
            text = self
        elif self.data != wanted.data or self.mtime_ns != wanted.mtime_ns:
            text = wanted
        else:
            return wanted
        until_ns = now_ns + STEP_NS
        size = max(self.size, wanted.size)
        step = Snapshot(text.data, until_ns, text.mtime_ns, text.container, size)
        step.settles_ns = until_ns
        return step

    def part(self, offset: int, size: int, *, to_size: bool = False) -> bytes:
        """Return these bytes of the kernel's page: newlines where there is no text.

        `to_size` ends it there, which makes the kernel believe that size (fuse_short_read,
        fs/fuse/file.c).
        """
        end = min(offset + size, self.size if to_size else max(PAGE, len(self.data)))
        part = self.data[offset:end]
        return part + b"\n" * (end - offset - len(part))


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
        #: Nodes that the server before told the kernel of.
        self._inherited: set[int] = set()
        #: Nodes of which the kernel was told the size of a text last, and no bound.
        self._exact: set[int] = set()
        #: Bounds that were told, for whose question, and until when that matters.
        self._bounds: dict[int, tuple[int, int, int]] = {}
        #: What was rendered last, by node.
        self.recent: dict[int, Snapshot] = {}
        self._shown: dict[int, Snapshot] = {}

    def recover(self, memory: int) -> None:
        """Know which sizes the server before has told, which are in this memfd. Raise OSError."""
        self.sizes.use(memory)
        self._inherited = set(self.sizes.nodes())
        self._exact = set(self._inherited)
        self._heard_of_all_ns = self.clock() + _HEARD_NS

    def alive(self, node: int) -> Snapshot | None:
        """Return the snapshot that may still be shown."""
        snapshot = self.recent.get(node)
        if snapshot is not None and self.clock() < snapshot.expires_ns:
            return snapshot
        return None

    def keep(
        self,
        node: int,
        data: bytes,
        container: Container | None,
        padding: Padding | None,
        lives: int = 1,
    ) -> Snapshot:
        """Make `data` the node's snapshot, for so many times the time-to-live.

        Where the kernel caches the node, the text gets the size that it was told (`_sized`). A
        text that is the same as before keeps its mtime, and with that the kernel its page; unless
        there was another in between, which a sendfile(2) past us may have put there, and never
        for long, as the page may be an answer to a request that had failed.
        """
        before = self._shown.get(node)
        last = self.recent.get(node)
        if padding is not None and self.is_shown(node):
            data = self._sized(node, data, padding)
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
        snapshot = self.towards(node, snapshot)
        if self.ttl_ns:
            self.recent[node] = snapshot
        return snapshot

    def length(self, node: int) -> int | None:
        """Return how long the node's last rendering is; None if there is none."""
        snapshot = self.recent.get(node)
        return None if snapshot is None else len(snapshot.data)

    def shown(self, node: int) -> Snapshot | None:
        """Return what the kernel was told last."""
        return self._shown.get(node)

    def is_shown(self, node: int) -> bool:
        """Whether the kernel was told of a text of this node, if only by the server before."""
        return node in self._shown or self.sizes.get(node) > 0

    def is_inherited(self, node: int) -> bool:
        """Whether cached handles of a node may be open that only the server before knew of."""
        return node in self._inherited

    def is_fresh(self, node: int) -> bool:
        """Whether the page that the kernel may have is not old, for who never asks how old it is.

        That are sendfile(2) and mappings.
        """
        return self.clock() < self.fresh_until(node)

    def fresh_until(self, node: int) -> int:
        """Return until when that is so."""
        snapshot = self._shown.get(node)
        return 0 if snapshot is None else snapshot.expires_ns + _SAME_NS

    def again(self, node: int, snapshot: Snapshot) -> Snapshot:
        """Return what to show so that the kernel has this text though it was told of another.

        It has the size of that one at least, as sizes do not change with the text; and is not
        lengthened, so that all that was read of it stays where it was.
        """
        before, told = self._shown.get(node), self._told(node)
        if before is None and told <= snapshot.size:
            return snapshot
        if before is not None and before.data == snapshot.data:
            return before
        text = Snapshot(
            snapshot.data, snapshot.expires_ns, time.time_ns(), snapshot.container, told
        )
        if before is not None:
            text.settles_ns = before.settles_ns
        return text

    def _told(self, node: int) -> int:
        """Return the size that the kernel was told last, if only by the server before; or 0."""
        before = self._shown.get(node)
        return self.sizes.get(node) if before is None else before.size

    def _sized(self, node: int, data: bytes, padding: Padding) -> bytes:
        """Return a text of the size that the kernel was told, or one with room if that is less.

        A reader that comes back to ask whether there is more would get the end of a longer text.
        """
        size = self._told(node)
        if len(data) > size:
            # One that has grown under its readers may go on growing.
            room = max(padding.room, len(data) // _GROWS_ON if size else 0)
            size = min(len(data) + room, PAGE)
        return padding.fill(data, size)

    def with_room(self, node: int, snapshot: Snapshot, padding: Padding | None) -> Snapshot:
        """Return the node's snapshot, with room to grow, before the kernel caches it."""
        if padding is None or not padding.room:
            return snapshot
        data = self._sized(node, snapshot.data, padding)
        longer = Snapshot(data, snapshot.expires_ns, time.time_ns(), snapshot.container)
        self.recent[node] = longer
        return longer

    def towards(self, node: int, wanted: Snapshot) -> Snapshot:
        """Return what to tell the kernel now, on the way to a rendering (`Snapshot.step`).

        That may have been made long ago, or for readers past the pages, of which the kernel was
        not told. From now on these get what is returned.
        """
        before = self._shown.get(node)
        if before is None:
            return wanted
        step = before.step(wanted, self.clock())
        if step is not wanted and node in self.recent:
            self.recent[node] = step
        return step

    def is_exact(self, node: int, *, cached: bool) -> bool:
        """Whether the kernel goes by how long it was told that a node's text is.

        Not if it has only a bound for it: sendfile(2) and mappings never ask. But who has asked
        the server before, with a cached handle, may be waiting for the page since then; whatever
        bound was told meanwhile (`bound_beside`).
        """
        return node in self._exact or (cached and node in self._inherited)

    def answer(self, node: int, *, bound: int = 0, asker: int = 0) -> None:
        """Note that the kernel has asked for a size, and gets that of the text or a bound."""
        if not bound:
            self._exact.add(node)
            return
        self._exact.discard(node)
        self._bounds[node] = bound, asker, self.clock() + _ON_ITS_WAY_NS

    def bound_beside(self, node: int, reader: int) -> int:
        """Return the bound that the kernel was just told for another thread's question, or 0.

        Who waits for a page meanwhile gets that much of it, however short the answer is: the
        kernel does not heed the end of one to a question that is older than the size that it has
        (fuse_short_read, fs/fuse/file.c), and shows zeros behind it.
        """
        bound, asker, until_ns = self._bounds.get(node, (0, 0, 0))
        return bound if self.clock() < until_ns and (asker != reader or not reader) else 0

    def show(self, node: int, snapshot: Snapshot) -> None:
        """Note that the kernel is told of this snapshot now, or as soon as it asks."""
        if self.sizes.told(node, snapshot.size, _start_of(snapshot.container)):
            self.on_resized()
        now_ns = self.clock()
        if snapshot.settles_ns and not snapshot.told_ns:
            snapshot.settles_ns = snapshot.expires_ns = now_ns + STEP_NS
        snapshot.told_ns = now_ns
        self._shown[node] = snapshot

    def drop(self, node: int) -> None:
        """Forget a node: the next container with its number must not see this one's."""
        self.recent.pop(node, None)
        self._shown.pop(node, None)
        self._inherited.discard(node)
        self._exact.discard(node)
        self.sizes.drop(node)

    def has(self, node: int) -> bool:
        """Whether anything is kept of a node."""
        return node in self.recent or self.is_shown(node)

    def belongs(self, node: int, container: Container | None) -> bool:
        """Whether what is kept of the node, if anything, is of this very container."""
        start = _start_of(container)
        for table in (self.recent, self._shown):
            snapshot = table.get(node)
            if snapshot is not None and _start_of(snapshot.container) != start:
                return False
        return container is None or self.sizes.is_of(node, start)

    def clear(self) -> None:
        """Forget all renderings, so that the next read shows a changed policy."""
        self.recent.clear()

    def sweep(self, is_alive: Callable[[int], bool]) -> None:
        """Drop what nobody has asked for lately and what belongs to containers that ended."""
        now_ns = self.clock()
        old = now_ns - _FORGET_NS
        for table in (self.recent, self._shown):
            for node, snapshot in list(table.items()):
                if snapshot.expires_ns < old or not is_alive(node):
                    table.pop(node, None)
        for node, (_, _, until_ns) in list(self._bounds.items()):
            if until_ns < now_ns:
                self._bounds.pop(node, None)
        if now_ns >= self._heard_of_all_ns:
            self.sizes.drop_unless(is_alive)
            for nodes in (self._inherited, self._exact):
                nodes.difference_update([node for node in list(nodes) if not is_alive(node)])

    def __len__(self) -> int:
        return len(self.recent) + len(self._shown)


def _start_of(container: Container | None) -> int:
    return 0 if container is None else container.started_ns()
