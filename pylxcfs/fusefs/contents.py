"""From a file index and a container to bytes: the views, and the host's file behind each.

Every failure of a view ends here with the host's file. Knows no handles, no snapshots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from pylxcfs.errors import SourceError
from pylxcfs.fusefs.guard import Guard
from pylxcfs.fusefs.nodes import FILES, SYSFS
from pylxcfs.fusefs.snapshots import PAGE
from pylxcfs.fusefs.systree import CPU, MEMORY, NODE, SysTree
from pylxcfs.views import View, syscpu, sysmemory, sysnode
from pylxcfs.views.model import Container, Host, Options


class TreeView(Protocol):
    """What a module of views/ says of a tree of sysfs; paths are relative to the root."""

    def render(
        self, path: str, host: Host, container: Container, options: Options
    ) -> bytes | None: ...

    def hidden(self, path: str, host: Host, container: Container, options: Options) -> bool: ...


_TREE_VIEWS: Final[Mapping[str, TreeView]] = {CPU: syscpu, NODE: sysnode, MEMORY: sysmemory}


class Contents:
    """What files say. `virtual` False switches every view off: files show the host."""

    def __init__(
        self,
        views: Sequence[View],
        sysfs: SysTree,
        host: Host,
        options: Options,
        guard: Guard,
        host32: Host | None = None,
    ) -> None:
        self.options = options
        self.virtual = True
        self._views = views
        self._sysfs = sysfs
        self._host = host
        #: The host as a 32-bit program sees it, where that makes a difference.
        self._host32 = host32
        self._guard = guard
        self._bounds: dict[int, int] = {}
        self._modes: dict[int, int] = {}

    def render(self, index: int, container: Container | None, compat: bool = False) -> bytes:
        """Return a file's text for a container, or the host's. Raise SourceError."""
        host = self._host32 if compat and self._host32 is not None else self._host
        if container is None or not self.virtual:
            return host.read(self._host_path(index))
        if index >= SYSFS:
            return self._render_sysfs(index, container)
        view = self._views[index - FILES]
        if not view.enabled(self.options):
            return host.read(view.host)
        text = self._guard.call(
            view.path,
            view.render,
            lambda host, container, options: host.read(view.host),
            host,
            container,
            self.options,
        )
        # An empty file would be worse than the host's.
        return text or host.read(view.host)

    def host(self, index: int) -> bytes:
        """Return the host's file. Raise SourceError."""
        return self._host.read(self._host_path(index))

    def view(self, index: int) -> View | None:
        """Return the row of the table that a file is; None for a file of sysfs."""
        return self._views[index - FILES] if index < SYSFS else None

    def hidden(self, path: str, container: Container | None) -> bool:
        """Whether a path of sysfs does not exist for this container."""
        if container is None or not self.virtual:
            return False
        view = _tree_view(path)
        if view is None:
            return False
        return self._guard.call(
            path,
            lambda: view.hidden(path, self._host, container, self.options),
            lambda: False,
        )

    def size_bound(self, index: int) -> int:
        """Return a size that a file's text does not exceed, in whole pages."""
        bound = self._bounds.get(index)
        if bound is None:
            try:
                length = len(self.host(index))
            except SourceError:
                return PAGE
            # Room for a text that grows by half, for padding and for wider numbers.
            bound = self._bounds[index] = (length + length // 2) // PAGE * PAGE + PAGE
        return bound

    def mode(self, index: int) -> int:
        """Return st_mode of the host's file, never writable; 0 if it is gone."""
        mode = self._modes.get(index)
        if mode is None:
            try:
                mode = self._sysfs.lstat(self._host_path(index)).st_mode & ~0o222
            except (OSError, SourceError):
                return 0
            self._modes[index] = mode
        return mode

    def differences(self, index: int) -> bool:
        """Whether readers of this file compare it with what they read before."""
        return index < SYSFS and self._views[index - FILES].differences

    def by_personality(self, index: int) -> bool:
        """Whether a file differs for readers with a 32-bit personality."""
        return (
            self._host32 is not None and index < SYSFS and self._views[index - FILES].by_personality
        )

    def is_the_same_for_all(self, index: int) -> bool:
        """Whether a file depends neither on a thread's user nor its personality."""
        return bool(self.mode(index) & 0o004) and not self.by_personality(index)

    def trigger_path(self, index: int) -> str | None:
        """Return the path of a file that takes pressure triggers, None for other files."""
        if index >= SYSFS or not self._views[index - FILES].writable:
            return None
        return self._views[index - FILES].path

    def forget_bounds(self) -> None:
        """Measure host files anew: CPUs may have come or gone."""
        self._bounds.clear()
        self._modes.clear()

    def _render_sysfs(self, index: int, container: Container) -> bytes:
        path = self._host_path(index)
        view = _tree_view(path)
        if view is None:
            return self._host.read(path)
        text = self._guard.call(
            path,
            lambda: view.render(path, self._host, container, self.options),
            lambda: None,
        )
        return self._host.read(path) if text is None else text

    def _host_path(self, index: int) -> str:
        if index < SYSFS:
            return self._views[index - FILES].host
        path = self._sysfs.path(index)
        if path is None:
            raise SourceError(f"no file of sysfs has the number {index - SYSFS}")
        return path


def _tree_view(path: str) -> TreeView | None:
    """Return what knows the tree that `path` is in: the first four names of it."""
    return _TREE_VIEWS.get("/".join(path.split("/", 4)[:4]))
