"""Parse and render sys/devices/system/node/nodeN/meminfo.

Printed by node_read_meminfo (drivers/base/node.c): `Node N Name:   NUMBER kB`. After the words
`Node N` a line has the layout of /proc/meminfo, and formats/meminfo.py parses it. Some names are
only here: MemUsed, FilePages.
"""

from __future__ import annotations

from pylxcfs.errors import FormatError
from pylxcfs.formats import meminfo
from pylxcfs.formats.meminfo import MemInfo

WHAT = "node meminfo"


def parse(text: bytes) -> tuple[int, MemInfo]:
    """Return the node's number, and its lines without `Node N`."""
    words = text[:32].split(b" ", 2)
    if len(words) < 3 or words[0] != b"Node" or not words[1].isdigit() or len(words[1]) > 5:
        raise FormatError(WHAT, text[:80])
    front = b"Node %b " % words[1]
    body = (b"\n" + text).split(b"\n" + front)
    if body[0] or text.count(b"\n") != len(body) - 1 or b"%d" % int(words[1]) != words[1]:
        raise FormatError(WHAT, text[:80])
    return int(words[1]), meminfo.parse(b"\n".join(body[1:]))


def render(node: int, lines: bytes) -> bytes:
    """Return the file of `node`, given lines in the layout of /proc/meminfo."""
    front = b"Node %d " % node
    return front + lines[:-1].replace(b"\n", b"\n" + front) + b"\n"
