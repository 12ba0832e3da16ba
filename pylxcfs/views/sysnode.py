"""sys/devices/system/node (drivers/base/node.c): visible NUMA nodes, and CPUs in them.

Nodes that views/numa.py does not list are hidden, and absent from online, has_* and distance;
`possible` stays, as programs size arrays by it. cpulist and cpumap contain visible CPUs
(views/cpus.py) only, and links lead to visible memory blocks (views/sysmemory.py) only.

No file that v1 and v2 both have counts a cgroup's memory by node. So the lines of nodeN/meminfo
are the container's (views/meminfo.py), divided among its nodes in proportion to their sizes, in
kB. The lines of all nodes add up to those of meminfo, if the nodes are large enough. MemTotal is
at most the node's; no other line is cut to the host's.

LXCFS has no such tree.
"""

from __future__ import annotations

from pylxcfs.errors import FormatError
from pylxcfs.formats import cpulist, nodememinfo
from pylxcfs.formats import meminfo as meminfo_format
from pylxcfs.units import KIB
from pylxcfs.views import cpus, meminfo, sysmemory
from pylxcfs.views.model import Container, Host, Memory, Options, SysCpu
from pylxcfs.views.numa import TREE, numbers, visible

#: Lists of nodes, narrowed to the visible ones. has_cpu also depends on visible CPUs.
_LISTS = ("online", "has_memory", "has_normal_memory", "has_high_memory", "has_generic_initiator")

#: Lines of a node's meminfo: those of /proc/meminfo, and two that it has not.
_NAMES = (*meminfo.NAMES, b"MemUsed", b"FilePages")


def render(path: str, host: Host, container: Container, options: Options) -> bytes | None:
    """Return the container's text of a file; None: the host's file.

    `path` is relative to the root.
    """
    match path.removeprefix(TREE).split("/"):
        case [name] if name in _LISTS:
            seen = frozenset(visible(host, container))
            return _line([node for node in numbers(host, name) if node in seen])
        case ["has_cpu"]:
            return _line(_with_cpus(host, container, options))
        case [name, "cpulist"] if (node := _number(name, "node")) is not None:
            return _line(_cpus(node, host, container, options))
        case [name, "cpumap"] if (node := _number(name, "node")) is not None:
            _, width = cpulist.parse_mask(host.read(path))
            return cpulist.mask(_cpus(node, host, container, options), width) + b"\n"
        case [name, "distance"] if _number(name, "node") is not None:
            return _distance(host.read(path), host, container)
        case [name, "meminfo"] if (node := _number(name, "node")) is not None:
            return _meminfo(node, host, container, options)
    return None


def hidden(path: str, host: Host, container: Container, options: Options) -> bool:
    """Return whether the container does not see `path`."""
    parts = path.removeprefix(TREE).split("/")
    node = _number(parts[0], "node")
    if node is None:
        return False
    block = sysmemory.block(parts[1]) if len(parts) > 1 else None
    if block is not None:
        blocks = sysmemory.visible(host, container, options)
        # A fast path, as a node may have thousands: visible blocks are on visible nodes.
        if blocks is not None:
            return block not in blocks
    if node not in visible(host, container):
        return True
    if options.sys_cpu is not SysCpu.HIDE or len(parts) < 2:
        return False
    cpu = _number(parts[1], "cpu")
    return cpu is not None and cpu not in cpus.shown(
        cpus.visible(host, container, options), options
    )


def spread(amount: int, sizes: list[int]) -> list[int]:
    """Divide `amount` in proportion to `sizes`; parts add up to it.

    If `amount` is at most the sum of `sizes`, no part exceeds its size.
    """
    whole = sum(sizes)
    parts = []
    before = reached = 0
    for size in sizes:
        reached += size
        upto = amount * reached // whole if whole else 0
        parts.append(upto - before)
        before = upto
    return parts


def _meminfo(node: int, host: Host, container: Container, options: Options) -> bytes | None:
    memory = container.memory()
    nodes = visible(host, container)
    if memory is None or node not in nodes:
        return None
    files = {n: nodememinfo.parse(host.read(f"{TREE}node{n}/meminfo"))[1] for n in nodes}
    totals = [(file.number(b"MemTotal") or 0) // KIB for file in files.values()]
    whole = meminfo.build(host.read(meminfo.PATH), memory, options)
    amounts = _amounts(meminfo_format.read(whole), memory)
    place = nodes.index(node)
    total = min(amounts[b"MemTotal"], sum(totals))
    # Nodes with less memory than the limit: what the container uses counts, and the rest is free.
    used = amounts[b"MemTotal"] - amounts[b"MemFree"]
    amounts[b"MemFree"] = max(0, total - used)
    shares = spread(total, totals)
    own = {
        # Nodes may have less memory than the limit; then no line exceeds their memory.
        name: spread(min(amount, total), shares)[place]
        for name, amount in amounts.items()
    }
    own[b"MemUsed"] = own[b"MemTotal"] - own[b"MemFree"]
    return nodememinfo.render(node, files[node].filled(_NAMES, own))


def _amounts(info: meminfo_format.MemInfo, memory: Memory) -> dict[bytes, int]:
    """Return the values, in kB, that are divided among nodes."""
    amounts = {name: (info.number(name) or 0) // KIB for name in meminfo.NAMES}
    amounts[b"FilePages"] = memory.stat.get(b"file", 0) // KIB
    return amounts


def _distance(text: bytes, host: Host, container: Container) -> bytes:
    # One column for each online node (drivers/base/node.c node_read_distance).
    online = numbers(host, "online")
    columns = text.split()
    if len(columns) != len(online):
        raise FormatError("distance", text)
    seen = frozenset(visible(host, container))
    kept = [column for node, column in zip(online, columns, strict=True) if node in seen]
    return b" ".join(kept) + b"\n"


def _with_cpus(host: Host, container: Container, options: Options) -> list[int]:
    nodes = visible(host, container)
    return [
        node
        for node in numbers(host, "has_cpu")
        if node in nodes and _cpus(node, host, container, options)
    ]


def _cpus(node: int, host: Host, container: Container, options: Options) -> list[int]:
    """Return the visible CPUs of a node, as numbered for the container."""
    names = cpus.names(cpus.visible(host, container, options), options)
    return [names[cpu] for cpu in numbers(host, f"node{node}/cpulist") if cpu in names]


def _line(numbers: list[int]) -> bytes:
    return cpulist.render(numbers) + b"\n"


def _number(name: str, word: str) -> int | None:
    """Return the N of "nodeN" or "cpuN"; None for anything else."""
    digits = name.removeprefix(word)
    ascii_ = digits != name and digits.isascii() and digits.isdigit()
    return int(digits) if ascii_ and len(digits) <= 5 else None
