"""What a row of VIEWS holds. The rows themselves are in views/__init__.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pylxcfs.views.model import Container, Host, Options

Render = Callable[[Host, Container, Options], bytes]


def always(_options: Options) -> bool:
    """Say that a file is served whatever the options are."""
    return True


@dataclass(frozen=True, slots=True)
class View:
    """One emulated file."""

    #: Where it is below the mountpoint.
    path: str
    #: The container's text. Raises SourceError or FormatError: the caller serves the host's file.
    render: Render
    #: The host's file, relative to the root: served where the container's cannot be.
    host: str
    #: One line for the table in README.
    summary: str
    enabled: Callable[[Options], bool] = always
    #: How many times --cache-ttl a rendering may be shown: more than once where nothing that this
    #: file says changes so fast.
    lives: int = 1
    #: The host's file depends on the reader's personality(2).
    by_personality: bool = False
    #: Pressure files take triggers, where those are switched on.
    writable: bool = False
