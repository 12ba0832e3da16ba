"""sys/devices/system/memory: as many memory blocks as the container's MemTotal fills.

Of the host's memoryN (drivers/base/memory.c) a container with a limit sees the lowest ones that
are online and on NUMA nodes that it sees (views/numa.py), as many as hold the total of
views/memory.py: `lsmem` adds up to MemTotal, rounded up to a block. The others are hidden, here
and as links in the node tree. No file has another text than the host's. Without a limit, as
without a memory controller, the tree is the host's.

A listing asks for each name, and there may be thousands: so what is visible is worked out once a
second for a container. The kernel believes names for as long anyway (fusefs/filesystem.py).

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

#: Nanoseconds of the host's clock for which a container's blocks are remembered.
_BELIEVED_NS = 1_000_000_000

#: By container: the blocks that it sees (None: all), and until when that is believed. Options
#: have no part in it: none changes MemTotal.
_seen: WeakKeyDictionary[Container, tuple[int, frozenset[int] | None]] = WeakKeyDictionary()


def render(path: str, host: Host, container: Container, options: Options) -> bytes | None:
    """Return None: each file that there is says what the host's does."""
    return None


def hidden(path: str, host: Host, container: Container, options: Options) -> bool:
    """Say whether the container does not see that `path`, relative to the root, exists."""
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
    """Return the blocks that the container sees, at most a second old; None: all there are."""
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
    wanted = -(-total // _block_size(host))
    chosen: set[int] = set()
    for number in sorted(_candidates(host, container)):
        if len(chosen) == wanted:
            break
        if _online(host, number):
            chosen.add(number)
    # None at all is no machine's answer: this host's tree is not understood.
    return frozenset(chosen) or None


def _candidates(host: Host, container: Container) -> set[int]:
    """Return the blocks on the container's nodes; all, if nodes do not tell of theirs."""
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
