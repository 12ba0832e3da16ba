"""Parse the blkio files of cgroup v1.

Printed by __blkg_prfill_rwstat (block/blk-cgroup-rwstat.c): one number for each device and kind
of request.

8:0 Read 4096
8:0 Write 0
8:0 Sync 4096          Async, Discard and Total alike
Total 4096             of all devices

Bytes, requests or nanoseconds, depending on the file. v1 only; v2 has io.stat (iostat.py).
"""

from __future__ import annotations

from pylxcfs.errors import FormatError

Device = tuple[int, int]


def parse(data: bytes) -> dict[Device, dict[bytes, int]]:
    """Return the numbers by (major, minor) and kind.

    The total of all devices is left out.
    """
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
