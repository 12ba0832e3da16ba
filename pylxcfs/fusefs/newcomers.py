"""Cached handles of threads that nobody has seen read: how each reads is found out first.

A reader that takes a file in pieces must get all of them from one text, but the page cache shows
whatever page is there. So the kernel gets attributes that hold for no time for a node with a
newcomer on it, which makes it ask before every read(2); the first question of the newcomer's own
says how much it reads at once. Who takes the whole text is served from the cache from then on.
Whoever takes pieces keeps the text with which it began: the node shows that to all its readers
for a while, and after that to this one only.

Knows handles and texts; does not know how it is found out what a thread reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pylxcfs.fusefs import nodes
from pylxcfs.fusefs.snapshots import Snapshot

#: For so long a text that somebody is in the middle of is shown to all readers of the node. Its
#: page stays where it is, and none of them can get a piece of another.
_TOGETHER_NS: Final = 1_000_000_000

#: Newcomers on one node. A container that opens more before it reads gets the others uncached.
_MOST: Final = 64

#: Programs remembered, and those of one container; each may show itself again.
_MOST_CONTAINERS: Final = 4096
_MOST_PROGRAMS: Final = 64


class Newcomer:
    """One handle, and the text that it is reading, or may be."""

    __slots__ = ("_since_ns", "finished", "seen", "snapshot")

    def __init__(self, snapshot: Snapshot | None, since_ns: int) -> None:
        #: The text it may have begun with unseen, as long as attributes held; then that it has.
        self.snapshot = snapshot
        #: It was seen to begin.
        self.seen = False
        #: It has all of the text.
        self.finished = False
        self._since_ns = since_ns

    def begin(self, snapshot: Snapshot, now_ns: int) -> None:
        """Note that it begins to read a text."""
        self.snapshot = snapshot
        self.seen = True
        self.finished = False
        self._since_ns = now_ns

    def keep(self, snapshot: Snapshot) -> Snapshot:
        """Note under which attributes it has its text now."""
        self.snapshot = snapshot
        return snapshot

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
        return not self.finished and now_ns < self._since_ns + _TOGETHER_NS


class Newcomers:
    """All of one mount."""

    def __init__(self) -> None:
        self._on: dict[int, dict[int, Newcomer]] = {}
        #: Every watched handle; None once it has settled.
        self._handles: dict[int, Newcomer | None] = {}
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
        programs = self._in_pieces.get(nodes.pair_of(node))
        if programs and program() in programs:
            return False
        here = self._on.get(node)
        return here is None or (
            len(here) < _MOST and all(one.finished or not one.seen for one in here.values())
        )

    def open(
        self, node: int, handle: int, shown: Snapshot | None, asks_after_ns: int, now_ns: int
    ) -> None:
        """Note a new handle, on a node of which the kernel was told `shown`.

        What it was told holds until `asks_after_ns`; so long it may not ask.
        """
        newcomer = Newcomer(shown, asks_after_ns)
        newcomer.finished = asks_after_ns <= now_ns
        self._add(node, handle, newcomer)

    def shown(self, node: int, snapshot: Snapshot) -> None:
        """Note that the kernel is told of this text: newcomers may begin with it unseen."""
        for one in self._on.get(node, {}).values():
            if one.snapshot is None and not one.finished:
                one.snapshot = snapshot

    def get(self, node: int, handle: int) -> Newcomer | None:
        """Return the newcomer behind a watched handle; None once it has settled.

        One that is not known was opened while another server served, and is new here.
        """
        if handle not in self._handles:
            self._add(node, handle, Newcomer(None, 0))
        return self._handles[handle]

    def _add(self, node: int, handle: int, newcomer: Newcomer) -> None:
        self._handles[handle] = self._on.setdefault(node, {})[handle] = newcomer

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
        for handle in self._on.pop(node, {}):
            del self._handles[handle]

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
        for one in self._on.get(node, {}).values():
            if one.snapshot is not None and one.is_recent(now_ns):
                return one.snapshot
        return None

    def _leave(self, node: int, handle: int) -> None:
        here = self._on.get(node)
        if here is not None:
            here.pop(handle, None)
            if not here:
                del self._on[node]
