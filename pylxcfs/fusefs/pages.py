"""Nodes that the kernel caches: which text it is told of, and what their pages are filled from.

The kernel asks for attributes when those it has are old, drops its page where they say that the
text is another, and then asks for the page. Both answers are given here, so that a page and its
size always belong together (snapshots.py), and nobody gets half of one text and half of another
(newcomers.py).
"""

from __future__ import annotations

from collections.abc import Callable

from pylxcfs.fusefs import nodes
from pylxcfs.fusefs.newcomers import Newcomer, Newcomers
from pylxcfs.fusefs.nodes import CACHED
from pylxcfs.fusefs.register import Entry
from pylxcfs.fusefs.renderings import Renderings
from pylxcfs.fusefs.snapshots import Snapshot
from pylxcfs.fusefs.threads import WholeReaders


class Pages:
    """All of one mount."""

    def __init__(self, renderings: Renderings, readers: WholeReaders) -> None:
        self.newcomers = Newcomers()
        #: Called with a node whose size the kernel should learn, though its readers never ask.
        self.ask_later: Callable[[int], object] = lambda node: None
        self._contents = renderings.contents
        self._renderings = renderings
        self._callers = renderings.callers
        self._snapshots = renderings.snapshots
        self._readers = readers

    def attributes(self, node: int, handle: int, pid: int) -> tuple[Snapshot, int]:
        """Return the text that the kernel is told of, and for how many nanoseconds that holds.

        Raise Refused.
        """
        if handle & CACHED:
            self.newcomers.opened(node, handle)
        newcomer = self.newcomers.on(node)
        if newcomer is None:
            snapshot = self._for_all(node, pid)
        elif newcomer.handle == handle:
            snapshot = self._for_newcomer(node, newcomer, pid)
        else:
            snapshot = self._shown(node, pid)
        self._snapshots.show(node, snapshot)
        self._snapshots.answer(node)
        if node in self.newcomers:
            return snapshot, 0
        return snapshot, max(0, snapshot.expires_ns - self._snapshots.clock())

    def are_shown(self, node: int) -> bool:
        """Whether the kernel was told of a text of the container that now has a node's number.

        Not if that is not known, or another than the text's: its runtime looks its files up before
        it has its limits, so nothing must be rendered for it yet.
        """
        owner = nodes.pair_of(node)
        return (
            self._snapshots.is_shown(node)
            and self._callers.containers.knows(nodes.unpack(owner))
            and self._snapshots.belongs(node, self._callers.container(owner, 0))
        )

    def show_current(self, node: int, pid: int) -> None:
        """Choose the text that the kernel will be told of, if it asks. Raise Refused."""
        before = self._snapshots.shown(node)
        snapshot = self._for_all(node, pid)
        self._snapshots.show(node, snapshot)
        if before is not None and snapshot.size > before.size:
            self.ask_later(node)

    def fill(self, node: int, handle: int, pid: int) -> Snapshot:
        """Return the text that a page is filled from. Raise Refused.

        While a newcomer has the pages to itself it is its text, whoever asks.
        """
        newcomer = self.newcomers.on(node)
        if newcomer is None:
            return self._shown(node, pid)
        if newcomer.handle == handle:
            newcomer.page = self._page_of(node, newcomer, pid)
        else:
            newcomer.page = newcomer.text or self._shown(node, pid)
        return newcomer.page

    def _page_of(self, node: int, newcomer: Newcomer, pid: int) -> Snapshot:
        if newcomer.snapshot is not None:
            return newcomer.snapshot
        snapshot = self._shown(node, pid)
        reading = self._callers.containers.reading(pid, False)
        if reading is None:
            return snapshot
        if reading[0]:
            self._look_at(node, newcomer, pid, reading[0], snapshot)
            return snapshot
        return self._newest(node, pid, snapshot)

    def _shown(self, node: int, pid: int) -> Snapshot:
        """Return what the kernel was told of, or tell it."""
        snapshot = self._snapshots.shown(node)
        if snapshot is None:
            snapshot = self._for_all(node, pid)
            self._snapshots.show(node, snapshot)
        return snapshot

    def has_room(self, node: int, pid: int) -> bool:
        """Whether a thread of which it is not known how it reads may open the node cached.

        That waits in open(2) now, or in something of which nothing can be told: then it may not.
        """
        containers = self._callers.containers
        return (
            containers.tells_readings
            and not self._snapshots.is_inherited(node)
            and self.newcomers.has_room(node, lambda: containers.program(pid))
            and containers.reading(pid, False) is None
        )

    def is_shared(self, node: int) -> bool:
        """Whether a thread of which it is known how it reads may open the node cached."""
        return self.newcomers.are_past(node, self._snapshots.clock())

    def come(self, node: int, handle: int, pid: int) -> None:
        """Note a newcomer."""
        self.newcomers.come(node, handle, pid, self._snapshots.clock())

    def recover(self, memory: int) -> None:
        """Go on with the newcomers of the server before, which it kept in this memfd.

        What they read is shown from the first answer on, if its container is the one that it was.
        """
        newcomers, snapshots = self.newcomers, self._snapshots
        newcomers.register.use(memory)
        for entry in newcomers.register.entries():
            snapshot = None
            if entry.text:
                snapshot = self._recovered(entry)
                if snapshot is None:
                    newcomers.register.drop(entry.handle)
                    continue
                snapshots.show(entry.node, snapshot)
            newcomers.recover(entry, snapshot, snapshots.clock())

    def _recovered(self, entry: Entry) -> Snapshot | None:
        """Return the text of the server before; None if it is not this container's."""
        container = self._callers.container(nodes.pair_of(entry.node), entry.tid)
        if container is None or container.started_ns() != entry.origin_ns:
            return None
        until_ns = self._snapshots.clock() + self._snapshots.ttl_ns
        snapshot = Snapshot(entry.text, until_ns, entry.mtime_ns, container)
        return self._snapshots.again(entry.node, snapshot)

    def _newest(self, node: int, pid: int, shown: Snapshot) -> Snapshot:
        """Return a text for sendfile(2) and mmap(2), which never ask how old a page is.

        But it has to measure what the kernel believes.
        """
        snapshot = self._for_all(node, pid)
        if shown.container is snapshot.container and shown.size != snapshot.size:
            self.ask_later(node)
            return shown
        self._snapshots.show(node, snapshot)
        return snapshot

    def _for_all(self, node: int, pid: int) -> Snapshot:
        """Return the text that a node's readers get now."""
        snapshots = self._snapshots
        snapshot = self._renderings.current(node, pid)
        if not snapshots.is_shown(node):
            view = self._contents.view(nodes.index_of(node))
            return snapshots.with_room(node, snapshot, view.padding if view is not None else None)
        return snapshots.towards(node, snapshot)

    def _for_newcomer(self, node: int, newcomer: Newcomer, pid: int) -> Snapshot:
        """Return the text that a newcomer gets, which is just about to read."""
        newcomer.unheard_since_ns = 0
        before, text = newcomer.snapshot, newcomer.text
        reading = self._callers.containers.reading(pid, text is not None)
        now_ns = self._snapshots.clock()
        if text is not None and (reading is None or newcomer.goes_on(reading[1], now_ns)):
            newcomer.since_ns = now_ns
            if before is None or text.data != before.data:
                self.newcomers.begin(node, text, False, now_ns)
            return self._snapshots.again(node, text)
        if reading is None:
            return self._shown(node, pid)
        snapshot = self._for_all(node, pid)
        if snapshot is before and self._contents.differences(nodes.index_of(node)):
            self._renderings.render(node, pid)
            snapshot = self._for_all(node, pid)
        self._look_at(node, newcomer, pid, reading[0], snapshot)
        return snapshot

    def _look_at(
        self, node: int, newcomer: Newcomer, pid: int, size: int, snapshot: Snapshot
    ) -> None:
        """Draw the conclusion from how much of a text a newcomer has asked for."""
        index = nodes.index_of(node)
        whole = size >= snapshot.size
        if whole:
            self._readers.saw_whole(pid, index, size, snapshot.size, self._callers.identify)
            if newcomer.snapshot is not None or not self._contents.differences(index):
                self.newcomers.settle(node)
                return
        else:
            self._readers.saw_piece(pid, index)
            self.newcomers.reads_in_pieces(node, self._callers.containers.program(pid))
        self.newcomers.begin(node, snapshot, whole, self._snapshots.clock())
