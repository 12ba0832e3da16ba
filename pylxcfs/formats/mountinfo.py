"""Parse /proc/PID/mountinfo: what is mounted where.

Printed by show_mountinfo (fs/proc_namespace.c):

    36 35 0:29 /docker/x /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu
    id parent dev  root  mountpoint         options  optional*   - type  source superblock options

Blanks, tabs, newlines and backslashes in names are three octal digits after a backslash.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from pylxcfs.errors import FormatError

_SPECIAL = re.compile(rb"[ \t\n\\]")
_ESCAPE = re.compile(rb"\\([0-7]{3})")


class Mount(NamedTuple):
    """A mount: directory `root` of a filesystem appears at `mountpoint`."""

    root: str
    mountpoint: str
    fstype: str
    #: Options of the superblock; for cgroup v1 they include the names of the controllers.
    options: tuple[str, ...]
    #: "major:minor" of the filesystem, and the source that mount(2) was given.
    device: str = ""
    source: str = ""
    #: Numbers of this mount and of the one that it is mounted on.
    ident: int = 0
    parent: int = 0
    #: Its peer group (mount_namespaces(7)), 0 without one.
    peers: int = 0


def parse(data: bytes, fstype: str = "") -> list[Mount]:
    """Return the mounts in the order of the file; those alone whose type begins with `fstype`."""
    wanted = b" - %b" % os.fsencode(fstype) if fstype else b""
    return [_mount(line) for line in data.split(b"\n") if line and wanted in line]


def escape(name: str) -> bytes:
    """Return a name as the kernel prints it."""
    return _SPECIAL.sub(lambda match: b"\\%03o" % match[0][0], os.fsencode(name))


def _mount(line: bytes) -> Mount:
    here, separator, filesystem = line.partition(b" - ")
    mount = here.split(b" ")
    source = filesystem.split(b" ")
    if not separator or len(mount) < 6 or len(source) < 3:
        raise FormatError("mountinfo", line)
    peers = next((word[7:] for word in mount[6:] if word.startswith(b"shared:")), b"0")
    try:
        ident, parent, group = int(mount[0]), int(mount[1]), int(peers)
    except ValueError:
        raise FormatError("mountinfo", line) from None
    return Mount(
        root=_unescape(mount[3]),
        mountpoint=_unescape(mount[4]),
        fstype=os.fsdecode(source[0]),
        options=tuple(os.fsdecode(source[2]).split(",")),
        device=os.fsdecode(mount[2]),
        source=_unescape(source[1]),
        ident=ident,
        parent=parent,
        peers=group,
    )


def _unescape(name: bytes) -> str:
    if b"\\" in name:
        name = _ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), name)
    return os.fsdecode(name)
