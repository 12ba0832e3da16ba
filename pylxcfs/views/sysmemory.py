"""sys/devices/system/memory (drivers/base/memory.c): memory blocks up to MemTotal.

A container with a limit sees the lowest of the host's memoryN that are online and on NUMA nodes
that it sees (views/numa.py), as many as hold the total of views/memory.py: the sum in `lsmem` is
MemTotal, rounded up to a block. The others are hidden, here and as links in the node tree. The
text of every file is the host's. Without a limit, and without a memory controller, the tree is the
host's.

A listing checks each name, and there may be thousands. So the visible blocks of a container are
computed once a second; the kernel's entry timeout in /sys is a second, too (tree/own.py).

LXCFS has no such tree.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

from pylxcfs.errors import FormatError, SourceError
from pylxcfs.formats import meminfo as meminfo_format
from pylxcfs.views import meminfo, memory, numa
from pylxcfs.views.model import Container, Host, Options

DIRECTORY = "sys/devices/system/memory"
TREE = DIRECTORY + "/"

#: Nanoseconds for which the blocks of a container are cached.
_BELIEVED_NS = 1_000_000_000

#: By container: when the entry expires, and the visible blocks (None: all). Options are not part
#: of the key, since none of them changes MemTotal.
_seen: WeakKeyDictionary[Container, tuple[int, frozenset[int] | None]] = WeakKeyDictionary()


def render(path: str, host: Host, container: Container, options: Options) -> bytes | None:
    """Return None: the text of every file is the host's."""
    return None


def hidden(path: str, host: Host, container: Container, options: Options) -> bool:
    """Return whether the container does not see `path`."""
    number = block(path.removeprefix(TREE).partition("/")[0])
    if number is None:
        return False
    blocks = visible(host, container, options)
    return blocks is not None and number not in blocks


def block(name: str) -> int | None:
    """Return the N of "memoryN"; None for anything else."""
    digits = name.removeprefix("memory")
    ascii_ = digits != name and digits.isascii() and digits.isdigit()
    return int(digits) if ascii_ and len(digits) <= 9 else None


def visible(host: Host, container: Container, options: Options) -> frozenset[int] | None:
    """Return the visible blocks, at most a second old; None: all."""
    now = host.now_ns()
    known = _seen.get(container)
    if known is None or now >= known[0]:
        known = _seen[container] = (now + _BELIEVED_NS, _needed(host, container, options))
    return known[1]


def _needed(host: Host, container: Container, options: Options) -> frozenset[int] | None:
    used = container.memory()
    if used is None:
        return None
    info = meminfo_format.read(host.read(meminfo.PATH))
    total = memory.amounts(info, used, options).total
    if total == info.number(b"MemTotal"):
        return None
    wanted = max(1, -(-total // _block_size(host)))  # a limit may be 0
    chosen: set[int] = set()
    for number in sorted(_candidates(host, container)):
        if len(chosen) == wanted:
            break
        if _online(host, number):
            chosen.add(number)
    # Without a single block the host's tree was not understood: show all.
    return frozenset(chosen) or None


def _candidates(host: Host, container: Container) -> set[int]:
    """Return the blocks on visible nodes; all, if nodes list none."""
    blocks = _blocks(host, DIRECTORY)
    try:
        nodes = numa.visible(host, container)
        theirs = [_blocks(host, f"{numa.TREE}node{node}") for node in nodes]
    except SourceError:
        return blocks  # a kernel without NUMA
    return blocks.intersection(set().union(*theirs)) or blocks


def _blocks(host: Host, directory: str) -> set[int]:
    return {number for name in host.list(directory) if (number := block(name)) is not None}


def _online(host: Host, number: int) -> bool:
    try:
        # "online", "offline" or "going-offline".
        return host.read(f"{TREE}memory{number}/state").startswith(b"online")
    except SourceError:
        return False  # unplugged since the listing


def _block_size(host: Host) -> int:
    text = host.read(TREE + "block_size_bytes")
    try:
        size = int(text, 16)
    except ValueError:
        size = 0
    if size <= 0:
        raise FormatError("block_size_bytes", text)
    return size
