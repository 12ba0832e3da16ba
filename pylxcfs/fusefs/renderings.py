"""From a node to a new text of it: the one place where a view is asked and its snapshot is kept.

Knows no handle.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable

from pylxcfs.errors import SourceError
from pylxcfs.fusefs import nodes
from pylxcfs.fusefs.callers import Callers
from pylxcfs.fusefs.contents import Contents
from pylxcfs.fusefs.refusal import Refused
from pylxcfs.fusefs.snapshots import PAGE, Snapshot, Snapshots


class Renderings:
    """All of one mount."""

    def __init__(self, contents: Contents, callers: Callers, snapshots: Snapshots) -> None:
        self.contents = contents
        self.callers = callers
        self.snapshots = snapshots
        #: Called when a text that the kernel caches is longer than a page.
        self.on_outgrown: Callable[[], object] = lambda: None

    def render(self, node: int, pid: int, *, compat: bool = False) -> Snapshot:
        """Render the view of a container's own node; keep it if others may be shown it.

        Raise Refused(EIO) where not even the host's file can be read.
        """
        owner = nodes.pair_of(node)
        index = nodes.index_of(node)
        container = self.callers.container(owner, pid)
        try:
            data = self.contents.render(index, container, compat)
        except SourceError as error:
            raise Refused(errno.EIO) from error
        if compat or container is None or owner == self.callers.host:
            return Snapshot(data, 0, time.time_ns(), container)
        view = self.contents.view(index)
        if view is None:
            snapshot = self.snapshots.keep(node, data, container, None)
        else:
            snapshot = self.snapshots.keep(node, data, container, view.padding, view.lives)
        if len(snapshot.data) > PAGE and self.snapshots.is_shown(node):
            self.on_outgrown()
        return snapshot

    def current(self, node: int, pid: int) -> Snapshot:
        """Return the rendering that may still be shown, or a new one. Raise Refused."""
        return self.snapshots.alive(node) or self.render(node, pid)

    def renew(self, node: int) -> None:
        """Make the next rendering of a node before somebody waits for it. Raise Refused.

        Its reader comes often, as it came back within one life of the text; and what it takes to
        render is still in the processor's caches now.
        """
        if self.callers.containers.knows(nodes.unpack(nodes.pair_of(node))):
            self.render(node, 0)

    def length(self, node: int, pid: int) -> int:
        """Return how long a node's text is now; more than a page where there is none."""
        length = self.snapshots.length(node)
        if length is None:
            try:
                length = len(self.render(node, pid).data)
            except Refused:
                return PAGE + 1
        return length
