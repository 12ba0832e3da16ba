"""Cached handles of threads that nobody has seen read: how each reads is found out first.

A reader that takes a file in pieces must get all of them from one text, but the page cache shows
whatever page is there. So the kernel gets attributes that hold for no time for a node with a
newcomer on it, which makes it ask before every read(2); the first question of the newcomer's own
says how much it reads at once. Who takes the whole text is served from the cache from then on.
Whoever takes pieces keeps the text with which it began: the node shows that to all its readers
for a while, and after that to this one only. The next server is told of all of them (register.py).

Knows handles and texts; does not know how it is found out what a thread reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pylxcfs.fusefs import nodes
from pylxcfs.fusefs.register import Entry, Register
from pylxcfs.fusefs.snapshots import Snapshot

#: For so long a text that somebody is in the middle of is shown to all readers of the node. Its
#: page stays where it is, and none of them can get a piece of another.
_TOGETHER_NS: Final = 1_000_000_000

#: Newcomers of one container. If it opens more before it reads it gets the others uncached.
_MOST: Final = 64

#: Programs remembered, and those of one container; each may show itself again.
_MOST_CONTAINERS: Final = 4096
_MOST_PROGRAMS: Final = 64


#: One that was opened while another server served, and has not asked for so long, need not exist:
#: that server may have been killed before it could say that it was open.
_UNHEARD_NS: Final = 60 * 1_000_000_000


class Newcomer:
    """One handle, and the text that it is reading, or may be."""

    __slots__ = ("_since_ns", "alone", "finished", "seen", "snapshot", "tid", "unheard_since_ns")

    def __init__(self, tid: int, snapshot: Snapshot | None, since_ns: int) -> None:
        #: Who opened it, or asked first.
        self.tid = tid
        #: Since when it is known from the server before only; 0: it has asked.
        self.unheard_since_ns = 0
        #: The text it may have begun with unseen, as long as attributes held; then that it has.
        self.snapshot = snapshot
        #: It was seen to begin.
        self.seen = False
        #: It has all of the text.
        self.finished = False
        #: It has been at it for so long that the others are past it.
        self.alone = False
        self._since_ns = since_ns

    def begin(self, snapshot: Snapshot, now_ns: int) -> None:
        """Note that it begins to read a text."""
        self.snapshot = snapshot
        self.seen = True
        self.finished = self.alone = False
        self._since_ns = now_ns

    def text(self) -> Snapshot:
        """Return the text that it is reading."""
        assert self.snapshot is not None, "has not begun"
        return self.snapshot

    @property
    def may_have_begun(self) -> bool:
        """Whether it has been seen to read, or may have done so unseen."""
        return self.seen or not self.finished

    def goes_on(self, offset: int | None, now_ns: int) -> bool:
        """Whether a read at `offset` (None: not known) is one more of the text it began with."""
        if self.snapshot is None or offset == 0 or not self.may_have_begun:
            return False
        if offset is None:
            return self.seen and self.is_recent(now_ns)
        if offset >= len(self.snapshot.data):
            self.finished = True
        return True

    def is_recent(self, now_ns: int) -> bool:
        """Whether all readers are to get its text with it."""
        return not self.finished and not self.alone and now_ns < self._since_ns + _TOGETHER_NS


class Newcomers:
    """All of one mount."""

    def __init__(self) -> None:
        self.register = Register()
        self._on: dict[int, dict[int, Newcomer]] = {}
        #: Every watched handle; None once it has settled.
        self._handles: dict[int, Newcomer | None] = {}
        #: By container, how many there are.
        self._by_owner: dict[int, int] = {}
        #: By container, what programs of it read in pieces.
        self._in_pieces: dict[int, set[bytes]] = {}

    def __contains__(self, node: int) -> bool:
        """Whether a node has newcomers, so that its attributes may hold for no time."""
        return node in self._on

    def has(self, handle: int) -> bool:
        """Whether a watched handle is open."""
        return handle in self._handles

    def has_room(self, node: int, program: Callable[[], bytes]) -> bool:
        """Whether one more may come: not while somebody is in the middle of the node's text.

        And not if one of the same container has been seen to take pieces with the same program.
        """
        if not self.register.has_room():
            return False
        programs = self._in_pieces.get(nodes.pair_of(node))
        if programs and program() in programs:
            return False
        if self._by_owner.get(nodes.pair_of(node), 0) >= _MOST:
            return False
        return all(one.finished or not one.seen for one in self._on.get(node, {}).values())

    def open(
        self,
        node: int,
        handle: int,
        tid: int,
        shown: Snapshot | None,
        asks_after_ns: int,
        now_ns: int,
    ) -> None:
        """Note a new handle, on a node of which the kernel was told `shown`.

        What it was told holds until `asks_after_ns`; so long it may not ask.
        """
        newcomer = Newcomer(tid, shown, asks_after_ns)
        newcomer.finished = asks_after_ns <= now_ns
        self._add(node, handle, newcomer)

    def recover(self, entry: Entry, snapshot: Snapshot | None, now_ns: int) -> None:
        """Take over a handle from the server before, with the text that it reads or may read."""
        newcomer = Newcomer(entry.tid, snapshot, now_ns)
        newcomer.seen = entry.seen
        newcomer.alone = entry.alone
        newcomer.finished = snapshot is None
        newcomer.unheard_since_ns = now_ns
        self._place(entry.node, entry.handle, newcomer)

    def shown(self, node: int, snapshot: Snapshot) -> None:
        """Note that the kernel is told of this text: newcomers may begin with it unseen."""
        for handle, one in self._on.get(node, {}).items():
            if one.snapshot is None and not one.finished:
                one.snapshot = snapshot
                self.note(node, handle, one)

    def get(self, node: int, handle: int, tid: int, shown: Snapshot | None) -> Newcomer | None:
        """Return the newcomer behind a watched handle; None once it has settled.

        One that is not known was opened while another server served, and is new here. It may have
        begun with what the kernel was told last.
        """
        if handle not in self._handles:
            self._add(node, handle, Newcomer(tid, shown, 0))
        newcomer = self._handles[handle]
        if newcomer is not None:
            newcomer.unheard_since_ns = 0
        return newcomer

    def note(self, node: int, handle: int, newcomer: Newcomer) -> None:
        """Tell the next server what is known of a newcomer; before the kernel is told of it."""
        snapshot = newcomer.snapshot
        container = snapshot.container if snapshot is not None else None
        if snapshot is None or container is None or newcomer.finished:
            entry = Entry(handle, node, newcomer.tid, False, False, 0, 0, b"")
        else:
            entry = Entry(
                handle,
                node,
                newcomer.tid,
                newcomer.seen,
                newcomer.alone,
                snapshot.mtime_ns,
                container.started_ns(),
                snapshot.data,
            )
        self.register.keep(entry)

    def settle(self, node: int, handle: int) -> None:
        """Note that a handle's reader takes whole texts."""
        self._leave(node, handle)
        self._handles[handle] = None

    def release(self, node: int, handle: int) -> None:
        """Forget a handle."""
        self._leave(node, handle)
        self._handles.pop(handle, None)

    def drop(self, node: int) -> None:
        """Forget what the newcomers of a node began with: it is another container's now."""
        for handle in list(self._on.get(node, ())):
            self.release(node, handle)

    def forget_unheard(self, now_ns: int) -> None:
        """Forget those of the server before that have not asked for long."""
        for node, here in list(self._on.items()):
            for handle, one in list(here.items()):
                if one.unheard_since_ns and now_ns - one.unheard_since_ns > _UNHEARD_NS:
                    self.release(node, handle)

    def reads_in_pieces(self, node: int, program: bytes) -> None:
        """Remember a program of the node's container whose threads read in pieces."""
        if len(self._in_pieces) >= _MOST_CONTAINERS:
            self._in_pieces.clear()
        programs = self._in_pieces.setdefault(nodes.pair_of(node), set())
        if len(programs) >= _MOST_PROGRAMS:
            programs.clear()
        programs.add(program)

    def shared(self, node: int, now_ns: int) -> Snapshot | None:
        """Return the text that all readers of a node get for now, if there is one."""
        for handle, one in self._on.get(node, {}).items():
            if one.snapshot is None or one.finished or one.alone:
                continue
            if one.is_recent(now_ns):
                return one.snapshot
            one.alone = True
            self.note(node, handle, one)
        return None

    def _add(self, node: int, handle: int, newcomer: Newcomer) -> None:
        self._place(node, handle, newcomer)
        self.note(node, handle, newcomer)

    def _place(self, node: int, handle: int, newcomer: Newcomer) -> None:
        self._handles[handle] = self._on.setdefault(node, {})[handle] = newcomer
        owner = nodes.pair_of(node)
        self._by_owner[owner] = self._by_owner.get(owner, 0) + 1

    def _leave(self, node: int, handle: int) -> None:
        here = self._on.get(node)
        if here is None or here.pop(handle, None) is None:
            return
        if not here:
            del self._on[node]
        owner = nodes.pair_of(node)
        self._by_owner[owner] -= 1
        if not self._by_owner[owner]:
            del self._by_owner[owner]
        self.register.drop(handle)
