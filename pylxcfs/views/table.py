"""The columns of VIEWS and TREES. The rows are in views/__init__.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pylxcfs.views.model import Container, Host, Options

Render = Callable[[Host, Container, Options], bytes]


def always(_options: Options) -> bool:
    """Return True: the file is served with all options."""
    return True


@dataclass(frozen=True, slots=True)
class View:
    """One emulated file."""

    #: Its path below the mountpoint.
    path: str
    #: Returns the container's text. Raises SourceError or FormatError: the host's file is served.
    render: Render
    #: The host's file, relative to the root: served where `render` fails.
    host: str
    #: The line in README's table.
    summary: str
    #: Whether the file is served with these options.
    enabled: Callable[[Options], bool] = always
    #: The age of a rendering is at most this many times --cache-ttl; more than 1 for a file with
    #: values that change slowly.
    lives: int = 1
    #: The host's file depends on the reader's personality(2).
    by_personality: bool = False
    #: The file accepts pressure triggers, with --enable-psi-poll.
    writable: bool = False


@dataclass(frozen=True, slots=True)
class TreeView:
    """One tree of sysfs; paths are relative to the root."""

    #: Returns the container's text of a file, None where it is the host's.
    render: Callable[[str, Host, Container, Options], bytes | None]
    #: Returns whether a path does not exist for the container.
    hidden: Callable[[str, Host, Container, Options], bool]
