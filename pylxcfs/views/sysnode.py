"""sys/devices/system/node: the NUMA nodes that a container may use. So far: the host's tree."""

from __future__ import annotations

from pylxcfs.views.model import Container, Host, Options


def render(path: str, host: Host, container: Container, options: Options) -> bytes | None:
    """Return the container's text of the file at `path`; None: the host's file is right."""
    return None


def hidden(path: str, host: Host, container: Container, options: Options) -> bool:
    """Say whether the container does not see that `path` exists."""
    return False
