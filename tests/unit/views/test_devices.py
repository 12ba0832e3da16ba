"""Devices that a container sees, in a sysfs that was made for this (tests/kit/sysfs.py)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pylxcfs.errors import SourceError
from pylxcfs.tree.nodes import DEVICES_OF_SYSFS
from pylxcfs.views import devices
from pylxcfs.views.model import Device, Options
from tests.kit.sysfs import MadeSysfs, block, char
from tests.unit.views.fakes import FakeContainer, FakeHost

UVERBS2, RENDER1, NULL = char(231, 194), char(226, 129), char(1, 3)
BRIDGED = {"0000:00:01.0", "0000:41:00.2"}


class Seen:
    """A made host, and what a container with some devices sees of it."""

    def __init__(self, root: Path) -> None:
        self.made = MadeSysfs(root)
        self.host = FakeHost(directory=root)

    def __call__(self, path: str, *allowed: Device) -> set[str]:
        return self.by(FakeContainer(devices_=frozenset(allowed)), path)

    def by(self, container: FakeContainer, path: str) -> set[str]:
        return {
            name
            for name in self.host.list(path)
            if not devices.hidden(f"{path}/{name}", self.host, container, Options())
        }


@pytest.fixture
def seen(tmp_path: Path) -> Seen:
    return Seen(tmp_path)


def test_one_port_of_four(seen: Seen) -> None:
    """The article's container: one uverbs in /dev, and so one device in sysfs."""
    assert seen("sys/class/infiniband", UVERBS2, NULL) == {"mlx5_2"}
    assert seen("sys/class/infiniband_verbs", UVERBS2, NULL) == {"uverbs2", "abi_version"}
    assert seen("sys/class/infiniband_mad", UVERBS2, NULL) == {"umad2"}
    assert seen("sys/bus/pci/devices", UVERBS2, NULL) == BRIDGED
    assert seen("sys/dev/char", UVERBS2, NULL) == {"231:194", "231:2", "1:3"}
    assert seen("sys/class/mem", UVERBS2, NULL) == {"null"}
    assert seen("sys/class/drm", UVERBS2) == set()


def test_a_render_node_shows_its_card_and_connectors(seen: Seen) -> None:
    assert seen("sys/class/drm", RENDER1) == {"card1", "card1-HDMI-A-1", "renderD129"}
    assert seen("sys/bus/pci/devices", RENDER1) == {"0000:62:00.0"}


def test_rdma_without_hardware_is_found_by_its_name(seen: Seen) -> None:
    assert seen("sys/class/infiniband", char(231, 201)) == {"rxe0"}
    assert seen("sys/class/infiniband_verbs", char(231, 201)) == {"uverbs9", "abi_version"}
    assert seen("sys/bus/pci/devices", char(231, 201)) == set()


def test_disks_of_one_controller_are_told_apart(seen: Seen) -> None:
    assert seen("sys/class/block", block(8, 16)) == seen("sys/block", block(8, 16)) == {"sdb"}
    assert seen("sys/class/scsi_generic", char(21, 1)) == {"sg1"}
    assert seen("sys/bus/pci/devices", block(8, 16)) == {"0000:00:1f.2"}
    assert seen("sys/class/block", block(259, 1)) == {"nvme0n1"}


def test_a_partition_shows_its_disk_and_a_disk_no_partition(seen: Seen) -> None:
    assert seen("sys/class/block", block(8, 1)) == {"sda", "sda1"}
    assert seen("sys/block", block(8, 1)) == {"sda"}
    assert seen("sys/dev/block", block(8, 1)) == {"8:0", "8:1"}
    assert seen("sys/class/block", block(8, 0)) == {"sda"}


def test_a_namespace_shows_its_controller(seen: Seen) -> None:
    assert seen("sys/class/nvme", block(259, 1)) == {"nvme0"}
    assert seen("sys/bus/pci/devices", block(259, 1)) == {"0000:00:1d.0", "0000:03:00.0"}


def test_ports_of_one_serial_controller_are_told_apart(seen: Seen) -> None:
    assert seen("sys/class/tty", char(4, 65)) == {"ttyS1"}
    assert seen("sys/class/tty", char(5, 0)) == {"tty"}


def test_a_container_without_rules_sees_what_the_host_has(seen: Seen) -> None:
    container = FakeContainer(devices_=None)
    for path in DEVICES_OF_SYSFS:
        if os.path.isdir(seen.made.root / path):
            assert seen.by(container, path) == set(seen.host.list(path))


def test_without_an_answer_everything_is_shown(seen: Seen) -> None:
    class Unknown(FakeContainer):
        def may_open(self, devices: object) -> frozenset[Device] | None:
            raise SourceError("bpf: Operation not permitted")

    assert seen.by(Unknown(), "sys/class/mem") == {"null"}


def test_changed_rules_show_after_a_tenth_of_a_second(seen: Seen) -> None:
    container = FakeContainer(devices_=frozenset({UVERBS2}))
    assert seen.by(container, "sys/class/infiniband") == {"mlx5_2"}
    container.devices_ = frozenset({char(231, 193)})
    seen.host.now += 100_000_000
    assert seen.by(container, "sys/class/infiniband") == {"mlx5_1"}


def test_a_new_device_shows_after_a_second(seen: Seen) -> None:
    container = FakeContainer(devices_=frozenset({NULL, char(1, 5)}))
    assert seen.by(container, "sys/class/mem") == {"null"}
    seen.made.device("mem", "virtual/mem/zero", "1:5")
    seen.host.now += 1_000_000_000
    assert seen.by(container, "sys/class/mem") == {"null", "zero"}


def test_every_link_that_is_shown_resolves(seen: Seen) -> None:
    allowed = frozenset({UVERBS2, RENDER1, NULL, block(8, 1), block(259, 1)})
    container = FakeContainer(devices_=allowed)
    for path in DEVICES_OF_SYSFS:
        if os.path.isdir(seen.made.root / path):
            for name in seen.by(container, path):
                assert (seen.made.root / path / name).exists()
