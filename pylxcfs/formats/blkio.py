"""v1's blkio files (block/blk-throttle.c, bfq-cgroup.c): a number by device and kind of request.

8:0 Read 4096
8:0 Write 0
8:0 Sync 4096          Async, Discard and Total alike
Total 4096             of all devices
"""

from __future__ import annotations

from pylxcfs.errors import FormatError

Device = tuple[int, int]


def parse(data: bytes) -> dict[Device, dict[bytes, int]]:
    """Return the numbers of a file by (major, minor) and kind; the total of all is left out."""
    devices: dict[Device, dict[bytes, int]] = {}
    for line in data.split(b"\n"):
        fields = line.split()
        if len(fields) == 3:
            try:
                major, minor = map(int, fields[0].split(b":"))
                devices.setdefault((major, minor), {})[fields[1]] = int(fields[2])
            except ValueError:
                raise FormatError("blkio", line) from None
        elif fields and (len(fields) != 2 or fields[0] != b"Total"):
            raise FormatError("blkio", line)
    return devices
