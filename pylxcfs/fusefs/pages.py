"""Nodes that the kernel caches: which text it is told of, and what their pages are filled from.

The kernel asks for attributes when those it has are old, drops its page where they say that the
text is another, and then asks for the page. Both answers are given here, so that a page and its
size always belong together and nobody gets half of one text and half of another: newcomers.py.
"""

from __future__ import annotations

from typing import Final

from pylxcfs.fusefs import nodes
from pylxcfs.fusefs.newcomers import Newcomer, Newcomers
from pylxcfs.fusefs.nodes import CACHED, WATCHED
from pylxcfs.fusefs.register import Entry
from pylxcfs.fusefs.renderings import Renderings
from pylxcfs.fusefs.snapshots import Snapshot
from pylxcfs.fusefs.threads import WholeReaders
from pylxcfs.views.padding import blanks

#: Both flags: a handle of an older version may have the second as a bit of its serial.
_WATCHED: Final = CACHED | WATCHED

#: For so long at most an answer is on its way, and a text is shown that a longer one follows.
_ON_ITS_WAY_NS: Final = 10_000_000
_MOST_LATE_NS: Final = 50_000_000


class Pages:
    """All of one mount."""

    def __init__(self, renderings: Renderings, readers: WholeReaders) -> None:
        self.newcomers = Newcomers()
        self._renderings = renderings
        self._contents = renderings.contents
        self._callers = renderings.callers
        self._snapshots = renderings.snapshots
        self._readers = readers

    def attributes(self, node: int, handle: int, pid: int) -> tuple[Snapshot, int]:
        """Return the text that the kernel is told of, and for how many nanoseconds that holds.

        Raise Refused.
        """
        newcomer = self._newcomer(node, handle, pid)
        if newcomer is None:
            snapshot = self._for_all(node, pid)
        else:
            snapshot = self._for_newcomer(node, handle, newcomer, pid)
        self._show(node, snapshot)
        now_ns = self._snapshots.clock()
        snapshot.told_to, snapshot.told_ns = pid, now_ns
        if node in self.newcomers:
            return snapshot, 0
        return snapshot, max(0, snapshot.expires_ns - now_ns)

    def show_current(self, node: int, pid: int) -> None:
        """Choose the text that the kernel will be told of. Raise Refused."""
        self._show(node, self._for_all(node, pid))

    def fill(self, node: int, handle: int, pid: int) -> bytes:
        """Return the text that a page is filled from. Raise Refused."""
        newcomer = self._newcomer(node, handle, pid)
        if newcomer is not None and newcomer.seen:
            return newcomer.text().data
        snapshot = self._snapshots.shown(node)
        if snapshot is None:
            snapshot = self._for_all(node, pid)
            self._show(node, snapshot)
        if newcomer is None:
            return snapshot.data
        reading = self._callers.containers.reading(pid, False)
        if reading is None:
            return snapshot.data
        if reading[0]:
            # It has asked how long the text is just now, or was told a moment ago.
            self._look_at(node, handle, newcomer, pid, reading[0], snapshot)
            return snapshot.data
        newcomer.finished = True
        self.newcomers.note(node, handle, newcomer)
        return self._newest(node, pid, snapshot).data

    def _newest(self, node: int, pid: int, shown: Snapshot) -> Snapshot:
        """Return a text for sendfile(2) and mmap(2), which never ask how old a page is.

        But it has to measure what the kernel believes.
        """
        snapshot = self._for_all(node, pid)
        if shown.container is snapshot.container and len(shown.data) != len(snapshot.data):
            return shown
        self._show(node, snapshot)
        return snapshot

    def has_room(self, node: int, pid: int) -> bool:
        """Whether a thread of which it is not known how it reads may open the node cached."""
        containers = self._callers.containers
        return containers.tells_readings and self.newcomers.has_room(
            node, lambda: containers.program(pid)
        )

    def open(self, node: int, handle: int, pid: int) -> None:
        """Note a watched handle. Where nothing is shown yet the kernel has to ask."""
        shown, now_ns = self._snapshots.shown(node), self._snapshots.clock()
        until_ns = shown.expires_ns if shown is not None else now_ns
        self.newcomers.open(node, handle, pid, shown, until_ns, now_ns)

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
                if not entry.alone:
                    snapshots.show(entry.node, snapshot)
            newcomers.recover(entry, snapshot, snapshots.clock())

    def _recovered(self, entry: Entry) -> Snapshot | None:
        """Return the text of the server before; None if it is not this container's."""
        container = self._callers.container(nodes.pair_of(entry.node), entry.tid)
        if container is None or container.started_ns() != entry.origin_ns:
            return None
        until_ns = self._snapshots.clock() + self._snapshots.ttl_ns
        snapshot = Snapshot(entry.text, until_ns, entry.mtime_ns, container)
        return self._once_more(entry.node, snapshot)

    def _once_more(self, node: int, snapshot: Snapshot) -> Snapshot:
        """Return what to show so that all that was read of a text stays where it was."""
        pad = blanks if self._contents.pad(nodes.index_of(node)) is not None else None
        return self._snapshots.again(node, snapshot, pad)

    def _newcomer(self, node: int, handle: int, pid: int) -> Newcomer | None:
        if handle & _WATCHED != _WATCHED:
            return None
        return self.newcomers.get(node, handle, pid, self._snapshots.shown(node))

    def _show(self, node: int, snapshot: Snapshot) -> None:
        self._snapshots.show(node, snapshot)
        if node in self.newcomers:
            self.newcomers.shown(node, snapshot)

    def _as_heeded(self, node: int, pid: int, snapshot: Snapshot) -> Snapshot:
        """Return what was shown before, if a text of another size might not be heeded now.

        The kernel drops an answer if it has heeded another since it asked (fi->attr_version); a
        page of the new text would then be read with the old size. It has asked after all answers
        if it asks for the thread that got the last one, or if that was some time ago.
        """
        shown = self._snapshots.shown(node)
        if (
            shown is None
            or len(shown.data) == len(snapshot.data)
            or shown.container is not snapshot.container
            or shown.told_to == pid
        ):
            return snapshot
        now_ns = self._snapshots.clock()
        if now_ns - shown.told_ns > _ON_ITS_WAY_NS or now_ns > shown.expires_ns + _MOST_LATE_NS:
            return snapshot
        return shown

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
        return self._as_heeded(node, pid, snapshot)

    def _for_newcomer(self, node: int, handle: int, newcomer: Newcomer, pid: int) -> Snapshot:
        """Return the text that a newcomer gets, which is just about to read."""
        reading = self._callers.containers.reading(pid, newcomer.may_have_begun)
        if reading is None:
            return self._for_all(node, pid)
        size, offset = reading
        if newcomer.goes_on(offset, self._snapshots.clock()):
            snapshot = self._once_more(node, newcomer.text())
            if snapshot is not newcomer.snapshot or newcomer.finished:
                newcomer.snapshot = snapshot
                self.newcomers.note(node, handle, newcomer)
            return snapshot
        newcomer.finished = True
        snapshot = self._for_all(node, pid)
        if (
            newcomer.seen
            and snapshot is newcomer.snapshot
            and self._contents.differences(nodes.index_of(node))
        ):
            snapshot = self._as_heeded(node, pid, self._renderings.render(node, pid))
        self._look_at(node, handle, newcomer, pid, size, snapshot)
        return snapshot

    def _look_at(
        self, node: int, handle: int, newcomer: Newcomer, pid: int, size: int, snapshot: Snapshot
    ) -> None:
        """Draw the conclusion from how much of a text a newcomer has asked for."""
        index, length = nodes.index_of(node), len(snapshot.data)
        if size >= length:
            self._readers.saw_whole(pid, index, size, length, self._callers.identify)
            if newcomer.seen or not self._contents.differences(index):
                self.newcomers.settle(node, handle)
                return
        else:
            self._readers.saw_piece(pid, index)
            self.newcomers.reads_in_pieces(node, self._callers.containers.program(pid))
        newcomer.begin(snapshot, self._snapshots.clock())
        self.newcomers.note(node, handle, newcomer)
