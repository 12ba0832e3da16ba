"""A made sysfs with devices that machines for tests do not have.

Made by the kernel's documents (Documentation/ABI/stable/sysfs-class-infiniband, sysfs-class,
sysfs-devices, sysfs-bus-pci), not captured: four ports of an InfiniBand adapter (mlx5), each a PCI
function behind a bridge; two GPUs with card and render node; an NVMe controller with two
namespaces; a SCSI host with two disks, one of them partitioned; RDMA without hardware (rxe); ttys.
"""

from __future__ import annotations

import os
from pathlib import Path

from pylxcfs.views.model import Device

_ROOT_PORT = "pci0000:00/0000:00:01.0"
_NIC = "0000:41:00"
_SCSI = "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:{n}/0:0:{n}:0"
_NVME = "pci0000:00/0000:00:1d.0/0000:03:00.0/nvme/nvme0"
#: How a driver in user space knows the adapter.
_CONNECTX5 = {
    "vendor": "0x15b3",
    "device": "0x1017",
    "modalias": "pci:v000015B3d00001017sv000015B3sd00000008bc02sc00i00",
}


class MadeSysfs:
    """A sysfs below `root`/sys."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sys = root / "sys"
        for directory in ("sys/dev/char", "sys/dev/block", "sys/block"):
            (root / directory).mkdir(parents=True)
        for address in (
            *("0000:00:00.0", "0000:00:01.0", "0000:00:1d.0", "0000:00:1f.2"),
            *(f"0000:41:00.{n}" for n in range(4)),
            *("0000:03:00.0", "0000:61:00.0", "0000:62:00.0"),
        ):
            self._bus_device("pci", self._pci(address))
        for n in range(4):
            self._port(n)
        for n, bus in enumerate(("61", "62")):
            self._gpu(n, self._pci(f"0000:{bus}:00.0"))
        self.device("nvme", _NVME, "243:0")
        for n in (1, 2):
            self.device("block", f"{_NVME}/nvme0n{n}", f"259:{n}")
        self._bus_device("scsi", "pci0000:00/0000:00:1f.2/ata1/host0")
        for n, disk in enumerate(("sda", "sdb")):
            self._bus_device("scsi", _SCSI.format(n=n))
            self.device("block", f"{_SCSI.format(n=n)}/block/{disk}", f"8:{16 * n}")
            self.device("scsi_generic", f"{_SCSI.format(n=n)}/scsi_generic/sg{n}", f"21:{n}")
        self.device("block", f"{_SCSI.format(n=0)}/block/sda/sda1", "8:1", whole=False)
        self.device("infiniband", "virtual/infiniband/rxe0")
        self.device("infiniband_verbs", "virtual/infiniband_verbs/uverbs9", "231:201")
        self.write("virtual/infiniband_verbs/uverbs9/ibdev", "rxe0\n")
        self._bus_device("platform", "platform/serial8250")
        for n in range(2):
            self.device("tty", f"platform/serial8250/tty/ttyS{n}", f"4:{64 + n}")
        self.device("tty", "virtual/tty/tty", "5:0")
        self.device("mem", "virtual/mem/null", "1:3")
        (self.sys / "class/infiniband_verbs/abi_version").write_text("6\n")

    def device(self, subsystem: str, path: str, numbers: str = "", *, whole: bool = True) -> None:
        """Make a class device at a path below sys/devices, with the links to it.

        `whole`: of a block device, that it is no partition.
        """
        place = self._make(path, f"class/{subsystem}")
        self._link(f"class/{subsystem}/{place.name}", place)
        kind = "block" if subsystem == "block" else "char"
        if kind == "block" and whole:
            self._link(f"block/{place.name}", place)
        if numbers:
            (place / "dev").write_text(f"{numbers}\n")
            self._link(f"dev/{kind}/{numbers}", place)

    def write(self, path: str, text: str) -> None:
        """Write a file below sys/devices."""
        (self.sys / "devices" / path).write_text(text)

    @staticmethod
    def _pci(address: str) -> str:
        """Return the path of a function: buses other than 00 are behind a bridge."""
        if address.startswith("0000:00"):
            return f"pci0000:00/{address}"
        if address.startswith("0000:03"):
            return f"pci0000:00/0000:00:1d.0/{address}"
        return f"{_ROOT_PORT}/{address}" if "41" in address else f"pci0000:60/{address}"

    def _bus_device(self, bus: str, path: str) -> None:
        place = self._make(path, f"bus/{bus}")
        self._link(f"bus/{bus}/devices/{place.name}", place)

    def _port(self, n: int) -> None:
        function = self._pci(f"{_NIC}.{n}")
        for name, text in _CONNECTX5.items():
            self.write(f"{function}/{name}", f"{text}\n")
        path = f"{function}/infiniband/mlx5_{n}"
        self.device("infiniband", path)
        self.write(f"{path}/node_type", "1: CA\n")
        self.write(f"{path}/node_guid", f"0002:c903:00a0:000{n}\n")
        (self.sys / "devices" / path / "device").symlink_to("../..")
        for name, first in (("uverbs", 192), ("umad", 0)):
            kind = "infiniband_verbs" if name == "uverbs" else "infiniband_mad"
            path = f"{function}/{kind}/{name}{n}"
            self.device(kind, path, f"231:{first + n}")
            self.write(f"{path}/ibdev", f"mlx5_{n}\n")
            self.write(f"{path}/abi_version", "1\n")
            (self.sys / "devices" / path / "device").symlink_to("../..")

    def _gpu(self, n: int, function: str) -> None:
        self.device("drm", f"{function}/drm/card{n}", f"226:{n}")
        self.device("drm", f"{function}/drm/card{n}/card{n}-HDMI-A-1")
        self.device("drm", f"{function}/drm/renderD{128 + n}", f"226:{128 + n}")

    def _make(self, path: str, subsystem: str) -> Path:
        place = self.sys / "devices" / path
        place.mkdir(parents=True, exist_ok=True)
        (self.sys / subsystem).mkdir(parents=True, exist_ok=True)
        (place / "subsystem").symlink_to(os.path.relpath(self.sys / subsystem, place))
        return place

    def _link(self, link: str, place: Path) -> None:
        at = self.sys / link
        at.parent.mkdir(parents=True, exist_ok=True)
        at.symlink_to(os.path.relpath(place, at.parent))


def char(major: int, minor: int) -> Device:
    return Device(False, major, minor)


def block(major: int, minor: int) -> Device:
    return Device(True, major, minor)
