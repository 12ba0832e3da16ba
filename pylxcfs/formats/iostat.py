"""v2's io.stat (block/blk-cgroup.c, blkcg_print_stat): what a cgroup did to each block device.

    8:0 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0 cost.usage=3

Keys after the six are kept out. Some kernels print a device without counters and do not even
end its line ("7:7 7:6 8:0 rbytes=..."), so words are read, not lines.
"""

from __future__ import annotations

from pylxcfs.errors import FormatError

Device = tuple[int, int]


def parse(data: bytes) -> dict[Device, dict[bytes, int]]:
    """Return the counters by (major, minor); devices without any are left out."""
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
            elif b"." in key:
                continue  # cost.usage, cost.vrate: of the iocost controller, some not integers
            elif device is None:
                raise FormatError("io.stat", word)
            else:
                if counters is None:
                    counters = devices.setdefault(device, {})
                # use_delay and the like of iolatency are no counters of traffic, but integers.
                counters[key] = int(value)
    except ValueError:
        raise FormatError("io.stat", data) from None
    return devices
