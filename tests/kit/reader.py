"""A program that reads files in a loop and checks them.

    python -m tests.kit.reader SETTINGS       (JSON: see `Settings`)

It ends at the end of its input and prints a Report as JSON. Styles: `keep` holds the files open and
seeks to offset 0, `open` opens and closes, `pieces` reads a few bytes at a time, `mmap` maps where
the file allows it and else reads. Standard library only; it knows no FUSE.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.kit.wellformed import check, cpu_numbers

#: A mapping of one page is one rendering of the file; several pages may be of different ones.
PAGE = mmap.PAGESIZE
PIECE = 61


@dataclass
class Settings:
    """The files to read, and their expected values."""

    style: str
    files: list[str]
    mem_total_kib: int
    cpus: int
    #: Path of a file; its eight bytes count the reads while the program runs.
    progress: str


@dataclass
class Report:
    """The result of all reads."""

    reads: Counter[str] = field(default_factory=Counter)
    mapped: int = 0
    #: Mappings with zeros after the text.
    zeros: int = 0
    errors: list[str] = field(default_factory=list)
    longest_ms: float = 0.0


class Reader:
    """Reads until the end of input; errors are recorded."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._report = Report()
        self._kept: dict[str, int] = {}
        self._uptime = 0.0
        self._read: Callable[[str], bytes] = getattr(self, f"_{settings.style}")

    def run(self) -> Report:
        """Read all files in turn until the end of input."""
        progress = os.open(self._settings.progress, os.O_WRONLY)
        count = 0
        while not select.select([0], [], [], 0)[0]:
            for name in self._settings.files:
                began = time.monotonic()
                try:
                    content = self._read(name)
                    took = (time.monotonic() - began) * 1000
                    self._report.longest_ms = max(self._report.longest_ms, took)
                    self._judge(name, content)
                except (OSError, AssertionError) as error:
                    if len(self._report.errors) < 20:
                        self._report.errors.append(f"{self._settings.style} {name}: {error!r}")
                self._report.reads[name] += 1
                count += 1
                os.pwrite(progress, count.to_bytes(8, "little"), 0)
        return self._report

    def _judge(self, name: str, content: bytes) -> None:
        check(name, content)
        if name == "proc/meminfo":
            total = int(content.split(None, 2)[1])
            assert total == self._settings.mem_total_kib, f"another's memory: {total} kB"
        elif name in ("proc/cpuinfo", "proc/stat"):
            cpus = cpu_numbers(name, content)
            assert len(cpus) == self._settings.cpus, f"another's CPUs: {cpus}"
        elif name == "proc/uptime":
            uptime = float(content.split()[0])
            assert uptime >= self._uptime, f"back from {self._uptime} to {uptime}"
            self._uptime = uptime

    def _keep(self, name: str) -> bytes:
        if name not in self._kept:
            self._kept[name] = os.open(f"/{name}", os.O_RDONLY)
        os.lseek(self._kept[name], 0, os.SEEK_SET)
        return _to_end(self._kept[name], 1 << 16)

    def _open(self, name: str) -> bytes:
        with open(f"/{name}", "rb", buffering=0) as file:
            return _to_end(file.fileno(), 1 << 16)

    def _pieces(self, name: str) -> bytes:
        with open(f"/{name}", "rb", buffering=0) as file:
            return _to_end(file.fileno(), PIECE)

    def _mmap(self, name: str) -> bytes:
        with open(f"/{name}", "rb", buffering=0) as file:
            fd = file.fileno()
            while 0 < (size := os.fstat(fd).st_size) <= PAGE:
                try:
                    with mmap.mmap(fd, size, access=mmap.ACCESS_READ) as mapped:
                        content = mapped[:]
                except ValueError:
                    continue  # the file has become shorter
                except OSError:
                    break  # not allowed on a file that bypasses the page cache
                # A mapping shows the current text, up to the size of the fstat before it.
                if os.fstat(fd).st_size == size:
                    self._report.mapped += 1
                    # Before a server has rendered the file, its size is an upper bound: a page.
                    text = content.rstrip(b"\0")
                    self._report.zeros += len(text) < size
                    return text
            return _to_end(fd, 1 << 16)


def _to_end(fd: int, piece: int) -> bytes:
    parts = []
    while part := os.read(fd, piece):
        parts.append(part)
    return b"".join(parts)


if __name__ == "__main__":
    print(json.dumps(vars(Reader(Settings(**json.loads(sys.argv[1]))).run())))
