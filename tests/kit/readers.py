"""Readers as the kernel knows them: processes that read one file in one way (readers.c).

A `Way` is how a file is read; a `Reader` is a process that does it, in a container or on the
host, until it is told to end. It reports each different text that it got, and each error.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from tests.conftest import require, wait_until
from tests.kit.cgroups import Cgroup

#: Never waited for by a test that passes.
DEADLINE_S = 60.0
_SOURCE = Path(__file__).with_suffix(".c")
_HEAD = struct.Struct("=cI")


@dataclass(frozen=True)
class Way:
    """A way of reading; `piece`: bytes of one read(2) where that matters."""

    name: str
    piece: int = 0

    def __str__(self) -> str:
        return f"{self.name}-{self.piece}" if self.piece else self.name


WHOLE, ONCE, KEPT = Way("whole"), Way("once"), Way("kept")
SEND, SEND_KEPT = Way("send"), Way("send_kept")
MAP, MAP_KEPT = Way("map"), Way("map_kept")
DIRECT, AIO, AIO_DIRECT = Way("direct"), Way("aio"), Way("aio_direct")
URING, URING_DIRECT = Way("uring"), Way("uring_direct")
STAT, DROP = Way("stat"), Way("drop")
PIECES = tuple(Way("pieces", size) for size in (1, 100, 512, 1024))
KEPT_PIECES = tuple(Way("kept_pieces", size) for size in (100, 1024))
#: Ways whose result is one reading, not the state of a page.
READS = (WHOLE, ONCE, KEPT, DIRECT, AIO, AIO_DIRECT, URING, URING_DIRECT)
#: Ways that bring no text.
SILENT = (STAT, DROP)


class Starts(Protocol):
    """Where a program can be started: a container, or the host."""

    def popen(self, argv: Sequence[str], **kwargs: Any) -> subprocess.Popen[Any]: ...


class OnHost:
    """The namespaces of the tests, and their cgroup or another."""

    def __init__(self, cgroup: Cgroup | None = None) -> None:
        self._cgroup = cgroup

    def popen(self, argv: Sequence[str], **kwargs: Any) -> subprocess.Popen[Any]:
        """Start a program in a session of its own."""
        if self._cgroup is not None:
            argv = self._cgroup.command(argv)
        return subprocess.Popen(argv, start_new_session=True, **kwargs)


@dataclass
class Outcome:
    """What a reader got."""

    way: Way
    reads: int
    #: Each different one once.
    texts: list[bytes] = field(default_factory=list)
    #: By errno; 0 is SIGBUS.
    errors: set[int] = field(default_factory=set)

    def faults(self, judge: Callable[[bytes], object]) -> list[str]:
        """Return what is wrong: errors, and the complaints of `judge` about texts."""
        found = [f"{self.way}: {os.strerror(n) if n else 'SIGBUS'}" for n in sorted(self.errors)]
        if self.way in SILENT:
            return found
        for text in self.texts:
            try:
                judge(text)
            except (AssertionError, ValueError, IndexError) as error:
                found.append(f"{self.way}: {error!r:.600}")
        return found


@cache
def program() -> str:
    """Build readers.c; return the path of the program, which stays until the run ends."""
    directory = Path(tempfile.gettempdir()) / f"pylxcfs-readers-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory / f"readers-{_SOURCE.stat().st_mtime_ns}"
    if not found.exists():
        made = directory / f"{found.name}.{os.getpid()}"
        command = ["cc", "-O2", "-Wall", "-Werror", "-o", str(made), str(_SOURCE)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=DEADLINE_S, text=True)
        except FileNotFoundError:
            require("cc", "there is no C compiler")
        assert done.returncode == 0, done.stderr
        made.rename(found)
    return str(found)


class Reader:
    """A process that reads `path` over and over."""

    def __init__(self, where: Starts, path: str, way: Way) -> None:
        self.way = way
        self._files = contextlib.ExitStack()
        self._progress = self._files.enter_context(tempfile.NamedTemporaryFile())  # noqa: SIM115
        self._progress.write(bytes(8))
        self._progress.flush()
        self._out = self._files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        self._err = self._files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        self._process = where.popen(
            [program(), path, way.name, str(way.piece), self._progress.name],
            stdin=subprocess.PIPE,
            stdout=self._out,
            stderr=self._err,
        )

    def count(self) -> int:
        """Return how often it has read. Fail if it has ended."""
        assert self._process.poll() is None, f"the {self.way} reader has ended: {self._said()}"
        return int.from_bytes(os.pread(self._progress.fileno(), 8, 0), "little")

    def finish(self) -> Outcome:
        """End it, and return what it got."""
        self._process.communicate(timeout=DEADLINE_S)
        assert self._process.returncode == 0, f"{self.way}: {self._said()}"
        self._out.seek(0)
        return _parse(self.way, self._out.read())

    def wait(self, seconds: float) -> None:
        """Let it read for so long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def discard(self) -> None:
        """Kill it if it still runs."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate(timeout=DEADLINE_S)
        self._files.close()

    def _said(self) -> str:
        self._err.seek(0)
        return f"{self._process.returncode}: {self._err.read().decode()}"


def _parse(way: Way, data: bytes) -> Outcome:
    outcome, at = Outcome(way, 0), 0
    while at < len(data):
        kind, number = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        if kind == b"T":
            outcome.texts.append(data[at : at + number])
            at += number
        elif kind == b"E":
            outcome.errors.add(number)
        else:
            outcome.reads = int.from_bytes(data[at : at + 8], "little")
            at += 8
    return outcome


@contextlib.contextmanager
def reading(*wanted: tuple[Starts, str, Way]) -> Iterator[list[Reader]]:
    """Start readers, and wait until each has read something; kill what is left at the end."""
    with contextlib.ExitStack() as stack:
        readers = []
        for where, path, way in wanted:
            reader = Reader(where, path, way)
            stack.callback(reader.discard)
            readers.append(reader)
        go_on(readers)
        yield readers


def go_on(readers: Sequence[Reader], times: int = 2) -> None:
    """Wait until each has begun and ended that many readings more, less one."""
    before = [reader.count() for reader in readers]

    def moved() -> bool:
        return all(
            reader.count() >= count + times for reader, count in zip(readers, before, strict=True)
        )

    wait_until(moved, DEADLINE_S, what="all readers to go on")


def last(readers: Sequence[Reader], seconds: float) -> None:
    """Let them read for so long, and until each has gone on after that."""
    readers[0].wait(seconds)
    go_on(readers)
