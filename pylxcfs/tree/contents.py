"""From a file index and a container to bytes: the views, and the host's file behind each.

Every failure of a view ends here with the host's file. Knows no nodes, handles or pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic_ns as _clock

from pylxcfs.errors import SourceError
from pylxcfs.guard import Guard
from pylxcfs.tree.nodes import FILES, SYSFS
from pylxcfs.tree.sysfs import SysTree
from pylxcfs.views import DEVICES, TREES, TreeView, View
from pylxcfs.views.model import Container, Host, Options


class Counts:
    """What was rendered, in plain integers: counting takes no lock, and nobody waits for it.

    An addition whose right side calls nothing is not divided between threads.
    """

    def __init__(self) -> None:
        #: By file index less FILES. The last place is that of all files of sysfs.
        self.renderings = [0] * (SYSFS - FILES + 1)
        self.spent_ns = [0] * (SYSFS - FILES + 1)
        #: The host's file was shown, as the reader's container was not known.
        self.unknown = 0


@dataclass(eq=False)
class Contents:
    """What files say."""

    views: Sequence[View]
    sysfs: SysTree
    host: Host
    options: Options
    guard: Guard
    #: The host as a 32-bit program sees it, where that makes a difference.
    host32: Host | None = None
    #: False: every file is the host's.
    virtual: bool = True
    counts: Counts = field(default_factory=Counts)

    def render(self, index: int, container: Container | None, compat: bool = False) -> bytes:
        """Return a file's text for a container, or the host's. Raise SourceError."""
        started = _clock()
        text = self._render(index, container, compat)
        spent = _clock() - started
        counts, place = self.counts, (index if index < SYSFS else SYSFS) - FILES
        counts.renderings[place] += 1
        counts.spent_ns[place] += spent
        if container is not None:
            container.renderings += 1
        return text

    def _render(self, index: int, container: Container | None, compat: bool) -> bytes:
        host = self.host32 if compat and self.host32 is not None else self.host
        path = self.path(index)
        if container is None or not self.virtual:
            return host.read(path)
        args = host, container, self.options
        if index >= SYSFS:
            found = self.guard.call(path, _tree(path).render, lambda *_: None, path, *args)
            return host.read(path) if found is None else found
        view, text = self._view(index), b""
        if view.enabled(self.options):
            text = self.guard.call(view.path, view.render, lambda *_: b"", *args)
        # An empty file would be worse than the host's.
        return text or host.read(path)

    def lives(self, index: int) -> int:
        """Return for how many times the time to live a rendering may be shown."""
        return self._view(index).lives if index < SYSFS else 1

    def hidden(self, path: str, container: Container | None) -> bool:
        """Return whether a path of sysfs does not exist for this container."""
        if container is None or not self.virtual:
            return False
        args = path, self.host, container, self.options
        return self.guard.call(path, _tree(path).hidden, lambda *_: False, *args)

    def by_personality(self, index: int) -> bool:
        """Return whether a file differs for readers with a 32-bit personality."""
        return self.host32 is not None and index < SYSFS and self._view(index).by_personality

    def takes_triggers(self, index: int) -> bool:
        """Return whether a file is one of the pressure files."""
        return FILES <= index < SYSFS and self._view(index).writable

    def path(self, index: int) -> str:
        """Return the host's file behind an index, relative to the root. Raise SourceError."""
        if index < SYSFS:
            return self._view(index).host
        path = self.sysfs.path(index)
        if path is None:
            raise SourceError(f"no file of sysfs has the number {index - SYSFS}")
        return path

    def _view(self, index: int) -> View:
        """Return the view of a file. Raise SourceError for a file of another version."""
        if not FILES <= index < FILES + len(self.views):
            raise SourceError(f"no file has the number {index}")
        return self.views[index - FILES]


def _tree(path: str) -> TreeView:
    """Return the view of the tree that `path` is in: its first four names, or devices."""
    return TREES.get("/".join(path.split("/", 4)[:4]), DEVICES)
