"""From the pid in a request to an owner and its container; keys and generations of owners.

    KEY = PIDNS[.CGROUPNS]-EPOCH-MAC      the directory of one container below own/

A key cannot be guessed: the MAC is over everything before it, under a secret that lives as long as
the mount. A container learns its own key by READLINK; only the host may list own/. So a name is the
permission, and no answer depends on the process that walks a path. Knows no file.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final

from pylxcfs.tree import nodes
from pylxcfs.tree.ports import Containers, Known
from pylxcfs.views.model import Container

_KEY: Final = re.compile(rb"([1-9]\d{0,9})(?:\.([1-9]\d{0,9}))?-([0-9a-f]{1,16})-([0-9a-f]{32})")


class Callers:
    """Owners are packed as in nodes.py; 0 is nobody."""

    def __init__(self, containers: Containers, secret: bytes) -> None:
        self.containers = containers
        self.host = nodes.pair((containers.host_pidns, 0))
        self._secret = secret

    def owner(self, pid: int) -> int:
        """Return the packed owner of a caller, 0 if it cannot be known."""
        return packed(self.containers.identify(pid) if pid else None)

    def container(self, owner: int, pid: int) -> Container | None:
        """Return the view that `owner` has for a request of `pid`; None: the host's files."""
        if owner == self.host:
            return self.containers.host_caller(pid)
        return self.known(owner, pid)

    def known(self, owner: int, pid: int) -> Known | None:
        """Return the container of an owner that is not the host."""
        return self.containers.get(nodes.unpack(owner), pid) if owner else None

    def key(self, owner: int, epoch: int) -> bytes:
        """Return the name of a container below own/."""
        pidns, cgroupns = nodes.unpack(owner)
        text = b"%d.%d" % (pidns, cgroupns) if cgroupns else b"%d" % pidns
        text += b"-%x" % epoch
        return text + b"-" + self._mac(text).hex().encode()

    def parse_key(self, name: bytes) -> tuple[int, int] | None:
        """Return owner and epoch of a key, None for any name that was not made by `key`."""
        match = _KEY.fullmatch(name)
        if match is None or not hmac.compare_digest(
            self._mac(name[: -len(match[4]) - 1]).hex().encode(), match[4]
        ):
            return None
        return nodes.pair((int(match[1]), int(match[2] or 0))), int(match[3], 16)

    def generation(self, owner: int, epoch: int) -> int:
        """Return the generation of a container's nodes: the kernel drops those of another one."""
        pidns, _ = nodes.unpack(owner)
        return int.from_bytes(self._mac(b"generation %d %d" % (pidns, epoch))[:4], "little")

    def _mac(self, text: bytes) -> bytes:
        return hmac.digest(self._secret, text, hashlib.sha256)[:16]


def packed(identity: tuple[int, int] | None) -> int:
    """Return the packed owner, 0 for one that is not known or has no place in a node id."""
    try:
        return nodes.pair(identity) if identity is not None else 0
    except ValueError:
        return 0
