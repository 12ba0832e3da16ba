"""sys/devices/system/node/nodeN/meminfo (drivers/base/node.c node_read_meminfo).

`Node N Name:   NUMBER kB`: behind the words in front of every line it is laid out as /proc/meminfo
is, and it is taken apart by formats/meminfo.py. Names differ in part: MemUsed, FilePages.
"""

from __future__ import annotations

from pylxcfs.errors import FormatError
from pylxcfs.formats import meminfo
from pylxcfs.formats.meminfo import MemInfo

WHAT = "node meminfo"


def parse(text: bytes) -> tuple[int, MemInfo]:
    """Return the node's number, and its lines without what stands in front of them."""
    words = text[:32].split(b" ", 2)
    if len(words) < 3 or words[0] != b"Node" or not words[1].isdigit() or len(words[1]) > 5:
        raise FormatError(WHAT, text[:80])
    front = b"Node %b " % words[1]
    body = (b"\n" + text).split(b"\n" + front)
    if body[0] or text.count(b"\n") != len(body) - 1 or b"%d" % int(words[1]) != words[1]:
        raise FormatError(WHAT, text[:80])
    return int(words[1]), meminfo.parse(b"\n".join(body[1:]))


def render(node: int, lines: bytes) -> bytes:
    """Return the file of `node`, given its lines as /proc/meminfo would have them."""
    front = b"Node %d " % node
    return front + lines[:-1].replace(b"\n", b"\n" + front) + b"\n"
