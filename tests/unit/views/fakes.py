"""A host and a container made of values, for tests of views."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pylxcfs.errors import SourceError
from pylxcfs.views.model import BlockIO, CpuLimit, CpuUsage, Device, Ledger, Load, Memory

#: Captured hosts: each directory has proc/ and sys/ as the kernel printed them, and SOURCE.md.
HOSTS = Path(__file__).resolve().parents[2] / "data" / "hosts"


@dataclass(eq=False)
class FakeHost:
    """A host with files by path; a missing path raises SourceError."""

    files: dict[str, bytes] = field(default_factory=dict)
    cpus: tuple[int, ...] = (0, 1)
    now: int = 1_000_000_000_000
    #: For how long it was suspended.
    asleep: int = 0
    #: A captured host, for files that are not in `files`.
    directory: Path | None = None
    reads: list[str] = field(default_factory=list)

    def read(self, path: str) -> bytes:
        self.reads.append(path)
        if path in self.files:
            return self.files[path]
        if self.directory is not None and (self.directory / path).is_file():
            return (self.directory / path).read_bytes()
        raise SourceError(f"{path}: no such file")

    recent = read

    def list(self, path: str) -> list[str]:
        self.reads.append(path)
        names = {
            file[len(path) + 1 :].partition("/")[0]
            for file in self.files
            if file.startswith(f"{path}/")
        }
        if self.directory is not None and (self.directory / path).is_dir():
            names.update(os.listdir(self.directory / path))
        if not names:
            raise SourceError(f"{path}: no such directory")
        return sorted(names)

    def readlink(self, path: str) -> str:
        try:
            return os.readlink(self.directory / path if self.directory is not None else "")
        except OSError as error:
            raise SourceError(f"{path}: {error.strerror}") from None

    def now_ns(self) -> int:
        return self.now

    def awake_ns(self) -> int:
        return self.now - self.asleep

    def online_cpus(self) -> tuple[int, ...]:
        return self.cpus


@dataclass(eq=False)  # compared by identity, as real ones are
class FakeContainer:
    """A container; the field `NAME_` is the result of method `NAME`."""

    memory_: Memory | None = None
    cpu_limit_: CpuLimit = field(default_factory=lambda: CpuLimit(None, None))
    cpu_usage_: CpuUsage | None = None
    block_io_: Mapping[tuple[int, int], BlockIO] | None = None
    pressure_: Mapping[str, bytes] = field(default_factory=dict)
    slabinfo_: bytes | None = None
    mems_: frozenset[int] | None = None
    #: What may be opened; None: everything.
    devices_: frozenset[Device] | None = None
    started_ns_: int = 0
    clock_offset_ns_: int = 0
    load_: Load | None = None
    ledger: Ledger = field(default_factory=Ledger)
    renderings: int = 0
    #: As ContainerSource has them: the container has ended; its files are closed.
    gone: bool = False
    released: bool = False

    def memory(self) -> Memory | None:
        return self.memory_

    def cpu_limit(self) -> CpuLimit:
        return self.cpu_limit_

    def cpu_usage(self) -> CpuUsage | None:
        return self.cpu_usage_

    def block_io(self) -> Mapping[tuple[int, int], BlockIO] | None:
        return self.block_io_

    def pressure(self, resource: str) -> bytes | None:
        return self.pressure_.get(resource)

    def slabinfo(self) -> bytes | None:
        return self.slabinfo_

    def mems(self) -> frozenset[int] | None:
        return self.mems_

    def may_open(self, devices: Iterable[Device]) -> frozenset[Device] | None:
        return None if self.devices_ is None else self.devices_.intersection(devices)

    def started_ns(self) -> int:
        return self.started_ns_

    def clock_offset_ns(self) -> int:
        return self.clock_offset_ns_

    def load(self) -> Load | None:
        return self.load_


def memory(**values: object) -> Memory:
    """Return the memory of an empty v2 cgroup without limits, with `values`."""
    fields: dict[str, object] = {
        "limit": None,
        "usage": 0,
        "swap_limit": None,
        "swap_usage": 0,
        "swappiness": None,
        "stat": {},
    }
    return Memory(**{**fields, **values})  # type: ignore[arg-type]


def captured() -> list[Path]:
    """Return the directories of all captured hosts, sorted by name."""
    return sorted(path for path in HOSTS.iterdir() if path.is_dir())
