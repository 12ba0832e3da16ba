"""Cached handles of threads that nobody has seen read: how each reads is found out first.

A reader that takes a file in pieces must get all of them from one text, but the page cache shows
whatever page is there, and where several threads ask for attributes the kernel may heed those of
another. So a newcomer has its node's pages to itself: it gets a cached handle only where no other
is open, and others go past the cache until it has settled. Attributes hold for no time meanwhile,
which makes the kernel ask before every read(2); the first question says how much is read at once.
Who takes the whole text is served from the cache from then on, beside others. Whoever takes pieces
keeps the text with which it began. The next server is told of all that (register.py).

Knows handles and texts; does not know how it is found out what a thread reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pylxcfs.fusefs import nodes
from pylxcfs.fusefs.register import Entry, Register
from pylxcfs.fusefs.snapshots import Snapshot

#: For so long a reader whose offset cannot be told is taken to go on with its text. A cached handle
#: from before this server, which nobody could know of, gets the newcomer's text for so long.
_TOGETHER_NS: Final = 1_000_000_000

#: Containers of which programs are remembered, and programs of each; they may show themselves
#: again.
_MOST_CONTAINERS: Final = 4096
_MOST_PROGRAMS: Final = 64

#: One that was opened while another server served, and has not asked for so long, need not exist:
#: that server may have been killed before it could say that it was open.
_UNHEARD_NS: Final = 60 * 1_000_000_000


class Newcomer:
    """One handle, and the text that it is reading."""

    __slots__ = (
        "handle",
        "page",
        "since_ns",
        "snapshot",
        "tid",
        "unheard_since_ns",
        "whole",
    )

    def __init__(self, handle: int, tid: int, since_ns: int) -> None:
        self.handle = handle
        #: Who opened it.
        self.tid = tid
        #: When it was opened, or asked last.
        self.since_ns = since_ns
        #: What it began with; None before it has.
        self.snapshot: Snapshot | None = None
        #: What the page was filled from last: what it really reads, since the kernel does not
        #: heed every answer that says that the text is another.
        self.page: Snapshot | None = None
        #: It took all of that at once.
        self.whole = False
        #: Since when it is known from the server before only; 0: it has asked.
        self.unheard_since_ns = 0

    def goes_on(self, offset: int | None, now_ns: int) -> bool:
        """Whether a read at `offset` (None: not known) is one more of the text it began with."""
        if offset == 0 or self.text is None:
            return False
        return offset is not None or self.is_recent(now_ns)

    @property
    def text(self) -> Snapshot | None:
        """What it reads, if it has begun."""
        return self.snapshot if self.page is None else self.page

    def is_recent(self, now_ns: int) -> bool:
        """Whether it was opened, or asked, a moment ago."""
        return now_ns < self.since_ns + _TOGETHER_NS


class Newcomers:
    """All of one mount, and which other cached handles are open."""

    def __init__(self) -> None:
        self.register = Register()
        self._on: dict[int, Newcomer] = {}
        #: By node, the cached handles that are open. Nodes that have none are not here.
        self.cached: dict[int, set[int]] = {}
        #: Cached handles that are or were newcomers'.
        self._watched: set[int] = set()
        #: By container, what programs of it read in pieces.
        self._in_pieces: dict[int, set[bytes]] = {}

    def __contains__(self, node: int) -> bool:
        """Whether a node has a newcomer, so that its attributes may hold for no time."""
        return node in self._on

    def on(self, node: int) -> Newcomer | None:
        """Return the newcomer that has a node's pages to itself, if there is one."""
        return self._on.get(node)

    def has(self, handle: int) -> bool:
        """Whether a handle is open that is or was a newcomer's."""
        return handle in self._watched

    def has_room(self, node: int, program: Callable[[], bytes]) -> bool:
        """Whether one may come: only where no cached handle is open.

        And not if one of the same container has been seen to take pieces with the same program.
        """
        if self.cached.get(node) or not self.register.has_room():
            return False
        programs = self._in_pieces.get(nodes.pair_of(node))
        return not programs or program() not in programs

    def come(self, node: int, handle: int, tid: int, now_ns: int) -> None:
        """Note a new one; before its OPEN is answered."""
        newcomer = Newcomer(handle, tid, now_ns)
        self._place(node, newcomer)
        self._note(newcomer, node)

    def recover(self, entry: Entry, snapshot: Snapshot | None, now_ns: int) -> None:
        """Take over one from the server before, with the text that it reads."""
        newcomer = Newcomer(entry.handle, entry.tid, now_ns)
        newcomer.snapshot = snapshot
        newcomer.unheard_since_ns = now_ns
        self._place(entry.node, newcomer)

    def begin(self, node: int, snapshot: Snapshot, whole: bool, now_ns: int) -> None:
        """Note that a node's newcomer begins to read a text; before the kernel is told of it."""
        newcomer = self._on.get(node)
        if newcomer is None:
            return
        newcomer.snapshot = snapshot
        newcomer.whole = whole
        newcomer.since_ns = now_ns
        self._note(newcomer, node)

    def opened(self, node: int, handle: int) -> None:
        """Note a cached handle: a new one, or one from before this server."""
        handles = self.cached.get(node)
        if handles is None:
            self.cached[node] = {handle}
        else:
            handles.add(handle)

    def are_past(self, node: int, now_ns: int) -> bool:
        """Whether a node has no newcomer, or one that has the whole text and does not come back."""
        newcomer = self._on.get(node)
        if newcomer is None:
            return True
        if not newcomer.whole or newcomer.is_recent(now_ns):
            return False
        self.settle(node)
        return True

    def settle(self, node: int) -> None:
        """Note that a node's newcomer, if there is one, takes whole texts, or is gone."""
        newcomer = self._on.pop(node, None)
        if newcomer is not None:
            self.register.drop(newcomer.handle)

    def closed(self, node: int, handle: int) -> None:
        """Forget a cached handle that never was a newcomer's."""
        handles = self.cached.get(node)
        if handles is not None:
            handles.discard(handle)
            if not handles:
                self.cached.pop(node, None)
                if handles:  # another thread was just opening one
                    self.cached[node] = handles

    def release(self, node: int, handle: int) -> None:
        """Forget a cached handle."""
        self.closed(node, handle)
        self._watched.discard(handle)
        newcomer = self._on.get(node)
        if newcomer is not None and newcomer.handle == handle:
            self.settle(node)

    def forget_unheard(self, now_ns: int) -> None:
        """Forget those of the server before that have not asked for long."""
        for node, one in list(self._on.items()):
            if one.unheard_since_ns and now_ns - one.unheard_since_ns > _UNHEARD_NS:
                self.release(node, one.handle)

    def reads_in_pieces(self, node: int, program: bytes) -> None:
        """Remember a program of the node's container whose threads read in pieces."""
        if len(self._in_pieces) >= _MOST_CONTAINERS:
            self._in_pieces.clear()
        programs = self._in_pieces.setdefault(nodes.pair_of(node), set())
        if len(programs) >= _MOST_PROGRAMS:
            programs.clear()
        programs.add(program)

    def forget_programs(self, lives: Callable[[int], bool]) -> None:
        """Forget which programs of containers that are not alive read in pieces."""
        for owner in list(self._in_pieces):
            if not lives(owner):
                self._in_pieces.pop(owner, None)

    def _place(self, node: int, newcomer: Newcomer) -> None:
        self._on[node] = newcomer
        self._watched.add(newcomer.handle)
        self.opened(node, newcomer.handle)

    def _note(self, one: Newcomer, node: int) -> None:
        """Tell the next server what is known of a newcomer."""
        snapshot = one.snapshot
        container = snapshot.container if snapshot is not None else None
        if snapshot is None or container is None:
            entry = Entry(one.handle, node, one.tid, 0, 0, b"")
        else:
            entry = Entry(
                one.handle,
                node,
                one.tid,
                snapshot.mtime_ns,
                container.started_ns(),
                snapshot.data,
            )
        self.register.keep(entry)
