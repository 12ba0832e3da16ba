"""sys/class/X, sys/block, sys/dev/{block,char}, sys/bus/pci/devices: devices that may be opened.

Each has a link for a device, which leads to its directory in sys/devices (drivers/base/core.c
device_add_class_symlinks, block/genhd.c, drivers/base/bus.c). A container sees the links as they
are, but only those of devices that its cgroup lets it open for reading or writing (v1 devices.list,
v2 BPF programs; Container.may_open):

    a block device, a tty      its own number, or that of a partition or device below it
    a PCI function             any device below it: bridges on the way stay
    anything else              also a device node of the same bus device: of mlx5_0, which has no
                               number, uverbs0; of card0, renderD128; of nvme0, nvme0n1
    infiniband/X               also one whose file `ibdev` says X: RDMA without hardware

A bus device is the nearest directory above whose `subsystem` is a bus: the PCI function, the USB
interface, the SCSI disk. So several disks or ports of one controller are told apart. What is no
link (infiniband_verbs/abi_version) is the host's. /sys/class/net is not here: sysfs shows the
network namespace of its mounter.

The host's list of devices is a second old at most, what a container may open a tenth.
LXCFS has no such trees.
"""

from __future__ import annotations

import posixpath
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

from pylxcfs.errors import PylxcfsError, SourceError
from pylxcfs.views.model import Container, Device, Host, Options

_DEVICES: Final = "sys/devices"
_NUMBERS: Final = {"sys/dev/block": True, "sys/dev/char": False}
_PCI: Final = "sys/bus/pci/devices"
_INFINIBAND: Final = "sys/class/infiniband"
#: Classes of which each device is one thing: two on one bus device have nothing in common.
_SINGLE: Final = frozenset({"block", "tty"})
#: Nanoseconds for which the host's devices, and what a container may open, are believed.
_LISTED_NS: Final = 1_000_000_000
_BELIEVED_NS: Final = 100_000_000


class _Shown(NamedTuple):
    """What a container sees."""

    until: int
    #: Directories of devices that it may open, and all above them.
    paths: frozenset[str]
    #: The bus devices of those.
    buses: frozenset[str]
    #: There is no limit, or it is not known.
    everything: bool = False


_listed: WeakKeyDictionary[Host, tuple[int, dict[Device, str]]] = WeakKeyDictionary()
_shown: WeakKeyDictionary[Container, _Shown] = WeakKeyDictionary()


def render(path: str, host: Host, container: Container, options: Options) -> bytes | None:
    """Return None: the text of every file is the host's."""
    return None


def hidden(path: str, host: Host, container: Container, options: Options) -> bool:
    """Return whether the container does not see `path`."""
    shown = _seen(host, container)
    if shown.everything:
        return False
    try:
        device = _target(host, path)
    except SourceError:
        return False  # a file, or it has gone
    if device in shown.paths:
        return False
    if posixpath.dirname(path) == _PCI or _subsystem(host, device)[1] in _SINGLE:
        return True
    return _bus_device(host, device) not in shown.buses


def _seen(host: Host, container: Container) -> _Shown:
    now = host.now_ns()
    shown = _shown.get(container)
    if shown is None or now >= shown.until:
        shown = _shown[container] = _look(host, container, now + _BELIEVED_NS)
    return shown


def _look(host: Host, container: Container, until: int) -> _Shown:
    devices = numbered(host)
    try:
        allowed = container.may_open(devices)
    except PylxcfsError:
        allowed = None  # all or nothing: each name would be asked about again
    if allowed is None:
        return _Shown(until, frozenset(), frozenset(), everything=True)
    paths, buses = set(), set()
    for device in allowed:
        path = devices[device]
        paths |= _upwards(path)
        if _subsystem(host, path)[1] not in _SINGLE:
            buses.add(_bus_device(host, path))
        if "/infiniband_" in path:
            paths |= _rdma_device(host, path)
    return _Shown(until, frozenset(paths), frozenset(buses - {""}))


def numbered(host: Host) -> dict[Device, str]:
    """Return the directories of all devices that have a number, in sys/devices.

    At most a second old, and not to be changed. Raise SourceError where there is no sysfs.
    """
    now = host.now_ns()
    until, found = _listed.get(host, (0, {}))
    if now >= until:
        found = {}
        for directory, is_block in _NUMBERS.items():
            for name in host.list(directory):
                major, _, minor = name.partition(":")
                try:
                    path = _target(host, f"{directory}/{name}")
                    found[Device(is_block, int(major), int(minor))] = path
                except (SourceError, ValueError):
                    continue  # unplugged since the listing
        _listed[host] = now + _LISTED_NS, found
    return found


def _target(host: Host, path: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), host.readlink(path)))


def _upwards(path: str) -> set[str]:
    found = set()
    while path.startswith(f"{_DEVICES}/"):
        found.add(path)
        path = posixpath.dirname(path)
    return found


def _subsystem(host: Host, device: str) -> tuple[str, str]:
    """Return "bus" or "class", and its name; empty for a directory that is no device."""
    try:
        kind, name = host.readlink(f"{device}/subsystem").split("/")[-2:]
    except (SourceError, ValueError):
        return "", ""
    return kind, name


def _bus_device(host: Host, path: str) -> str:
    """Return the nearest bus device at or above a device; empty if there is none."""
    while path.startswith(f"{_DEVICES}/"):
        if _subsystem(host, path)[0] == "bus":
            return path
        path = posixpath.dirname(path)
    return ""


def _rdma_device(host: Host, path: str) -> set[str]:
    """Return the directory of the RDMA device of an uverbs or umad device."""
    try:
        name = host.read(f"{path}/ibdev").decode().strip()
        return {_target(host, f"{_INFINIBAND}/{name}")}
    except (SourceError, UnicodeDecodeError):
        return set()
