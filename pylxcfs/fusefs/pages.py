"""Nodes that the kernel caches: which text it is told of, and what their pages are filled from.

The kernel asks for attributes when those it has are old, drops its page where they say that the
text is another, and then asks for the page. Both answers are given here, so that a page and its
size always belong together and nobody gets half of one text and half of another: newcomers.py.
"""

from __future__ import annotations

import time

from pylxcfs.fusefs import nodes
from pylxcfs.fusefs.newcomers import Newcomer, Newcomers
from pylxcfs.fusefs.nodes import WATCHED
from pylxcfs.fusefs.renderings import Renderings
from pylxcfs.fusefs.snapshots import Snapshot
from pylxcfs.fusefs.survivors import Survivors
from pylxcfs.fusefs.threads import WholeReaders
from pylxcfs.views.padding import blanks


class Pages:
    """All of one mount."""

    def __init__(self, renderings: Renderings, readers: WholeReaders, survivors: Survivors) -> None:
        self.newcomers = Newcomers()
        self._renderings = renderings
        self._contents = renderings.contents
        self._callers = renderings.callers
        self._snapshots = renderings.snapshots
        self._readers = readers
        self._survivors = survivors

    def attributes(self, node: int, handle: int, pid: int) -> tuple[Snapshot, int]:
        """Return the text that the kernel is told of, and for how many nanoseconds that holds.

        Raise Refused.
        """
        newcomer = self.newcomers.get(node, handle) if handle & WATCHED else None
        if newcomer is None:
            snapshot = self._for_all(node, pid)
        else:
            snapshot = self._for_newcomer(node, handle, newcomer, pid)
        self._show(node, snapshot)
        if node in self.newcomers:
            return snapshot, 0
        return snapshot, max(0, snapshot.expires_ns - self._snapshots.clock())

    def fill(self, node: int, handle: int, pid: int) -> bytes:
        """Return the text that a page is filled from. Raise Refused."""
        newcomer = self.newcomers.get(node, handle) if handle & WATCHED else None
        if newcomer is not None and newcomer.seen:
            return newcomer.text().data
        snapshot = self._snapshots.shown(node)
        if snapshot is None:
            snapshot = self._for_all(node, pid)
            self._show(node, snapshot)
        elif newcomer is not None and snapshot.expires_ns <= self._snapshots.clock():
            # Nobody asks for a page of an old text but sendfile(2) and mmap(2).
            newcomer.finished = True
            snapshot = self._for_all(node, pid)
        if newcomer is not None:
            reading = self._callers.containers.reading(pid, False)
            if reading is not None and reading[0]:
                self._look_at(node, handle, newcomer, pid, reading[0], snapshot)
        return snapshot.data

    def has_room(self, node: int, pid: int) -> bool:
        """Whether a thread of which it is not known how it reads may open the node cached."""
        containers = self._callers.containers
        return containers.tells_readings and self.newcomers.has_room(
            node, lambda: containers.program(pid)
        )

    def open(self, node: int, handle: int) -> None:
        """Note a watched handle. Where nothing is shown yet the kernel has to ask."""
        shown, now_ns = self._snapshots.shown(node), self._snapshots.clock()
        until_ns = shown.expires_ns if shown is not None else now_ns
        self.newcomers.open(node, handle, shown, until_ns, now_ns)

    def _show(self, node: int, snapshot: Snapshot) -> None:
        self._snapshots.show(node, snapshot)
        if node in self.newcomers:
            self.newcomers.shown(node, snapshot)

    def _for_all(self, node: int, pid: int) -> Snapshot:
        """Return the text that a node's readers get now."""
        watched = node in self.newcomers
        if watched:
            shared = self.newcomers.shared(node, self._snapshots.clock())
            if shared is not None:
                return shared
        snapshot = self._renderings.current(node, pid)
        if watched:  # the kernel may have been told of an older text, which was longer
            pad = self._contents.pad(nodes.index_of(node))
            snapshot = self._snapshots.lengthened(node, snapshot, pad)
        return snapshot

    def _for_newcomer(self, node: int, handle: int, newcomer: Newcomer, pid: int) -> Snapshot:
        """Return the text that a newcomer gets, which is just about to read."""
        if not newcomer.seen:
            data = self._survivors.find(handle)  # another server gave it its first piece
            if data is not None:
                newcomer.begin(Snapshot(data, 0, time.time_ns(), None), 0)
        reading = self._callers.containers.reading(pid, newcomer.may_have_begun)
        if reading is None:
            return self._for_all(node, pid)
        size, offset = reading
        index = nodes.index_of(node)
        if newcomer.goes_on(offset, self._snapshots.clock()):
            # What it has had already must stay where it was: blanks at the end.
            pad = blanks if self._contents.pad(index) is not None else None
            return newcomer.keep(self._snapshots.again(node, newcomer.text(), pad))
        newcomer.finished = True
        snapshot = self._for_all(node, pid)
        if newcomer.seen and snapshot is newcomer.snapshot and self._contents.differences(index):
            snapshot = self._renderings.render(node, pid)
        self._look_at(node, handle, newcomer, pid, size, snapshot)
        return snapshot

    def _look_at(
        self, node: int, handle: int, newcomer: Newcomer, pid: int, size: int, snapshot: Snapshot
    ) -> None:
        """Draw the conclusion from how much of a text a newcomer has asked for."""
        whole = size >= len(snapshot.data)
        if whole and (newcomer.seen or not self._contents.differences(nodes.index_of(node))):
            self.newcomers.settle(node, handle)
            self._readers.saw_whole(pid, self._callers.identify)
            return
        newcomer.begin(snapshot, self._snapshots.clock())
        if not whole:
            self._readers.saw_piece(pid)
            self.newcomers.reads_in_pieces(node, self._callers.containers.program(pid))
            self._survivors.keep(handle, snapshot.data)
