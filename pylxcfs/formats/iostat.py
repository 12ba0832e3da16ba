"""Parse io.stat of cgroup v2: I/O on each block device.

Printed by blkcg_print_stat (block/blk-cgroup.c); bytes and requests:

    8:0 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0 cost.usage=3

Keys after the six belong to I/O controllers (cost.vrate=100.00, depth=max) and are left out.
Some kernels print a device without counters and do not end its line ("7:7 7:6 8:0 rbytes=..."),
so the parser splits words, not lines. v1 has the blkio files (blkio.py).
"""

from __future__ import annotations

from pylxcfs.errors import FormatError

Device = tuple[int, int]

_COUNTERS = frozenset({b"rbytes", b"wbytes", b"rios", b"wios", b"dbytes", b"dios"})


def parse(data: bytes) -> dict[Device, dict[bytes, int]]:
    """Return the counters by (major, minor), without devices that have none."""
    devices: dict[Device, dict[bytes, int]] = {}
    counters: dict[bytes, int] | None = None
    device: Device | None = None
    try:
        for word in data.split():
            key, equals, value = word.partition(b"=")
            if not equals:
                major, colon, minor = word.partition(b":")
                if not colon:
                    raise FormatError("io.stat", word)
                device = (int(major), int(minor))
                counters = None
            elif device is None:
                raise FormatError("io.stat", word)
            elif key in _COUNTERS:
                if counters is None:
                    counters = devices.setdefault(device, {})
                counters[key] = int(value)
    except ValueError:
        raise FormatError("io.stat", data) from None
    return devices
