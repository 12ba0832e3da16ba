"""proc/diskstats (diskstats_show, block/genhd.c): the container's I/O on each device.

v1: the recursive files of blkio; v2: io.stat, which counts bytes and requests but no time. A
device without I/O of the container is left out; if all are, every device is listed with zeros,
because programs take an empty file for an error. Names are the host's. Cgroups count whole disks,
so partitions are not listed. Cgroups do not count requests in flight, merged discards, time of
discards, and flushes: these columns are 0.

Unlike LXCFS, which on v2 shows the host's file.
"""

from __future__ import annotations

from pylxcfs.formats import diskstats
from pylxcfs.formats.diskstats import Disk
from pylxcfs.units import SECTOR
from pylxcfs.views.model import BlockIO, Container, Host, Options

_UNTOUCHED = BlockIO()
_NS_PER_MS = 1_000_000


def render(host: Host, container: Container, options: Options) -> bytes:
    """Return the container's /proc/diskstats."""
    text = host.recent("proc/diskstats")
    used = container.block_io()
    if used is None:
        return text
    touched = {device: io for device, io in used.items() if io != _UNTOUCHED}
    if not touched:
        return diskstats.idle(text)
    disks = [
        Disk(device, name, _columns(touched[device]))
        for device, name in diskstats.names(text).items()
        if device in touched
    ]
    return diskstats.render(disks) or diskstats.idle(text)


def _columns(io: BlockIO) -> tuple[int, ...]:
    return (
        io.reads,
        io.reads_merged,
        io.read_bytes // SECTOR,
        io.read_ns // _NS_PER_MS,
        io.writes,
        io.writes_merged,
        io.write_bytes // SECTOR,
        io.write_ns // _NS_PER_MS,
        0,
        io.busy_ns // _NS_PER_MS,
        (io.read_ns + io.write_ns) // _NS_PER_MS,
        io.discards,
        0,
        io.discard_bytes // SECTOR,
        0,
        0,
        0,
    )
