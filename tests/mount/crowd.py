"""A program of many threads that read one file in a container, each in its own way.

    python -m tests.mount.crowd PATH SECONDS KIND...

The first kind has read for a while before the others start. Prints what each got, as JSON: a list
of [kind, text in hex], each once. Standard library only; knows no FUSE, and judges nothing.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator

#: Bytes of one read of those that read in pieces, and of those that take the whole file.
PIECE, WHOLE = 61, 65536


class Crowd:
    """What all threads share."""

    def __init__(self, path: str, seconds: float) -> None:
        self.path = path
        self.end = time.monotonic() + seconds
        self.seen: set[tuple[str, str]] = set()
        self.begun = threading.Event()

    def run(self, kinds: list[str]) -> None:
        """Run one thread of each kind until the time is over."""
        threads = [threading.Thread(target=self._run, args=(kind,)) for kind in kinds]
        threads[0].start()
        self.begun.wait()
        for thread in threads[1:]:
            thread.start()
        for thread in threads:
            thread.join()

    def _run(self, kind: str) -> None:
        readings: Callable[[], Iterator[bytes]] = getattr(self, f"_{kind}")
        for text in readings():
            if text:
                self.seen.add((kind, text.hex()))
            self.begun.set()
            if time.monotonic() > self.end:
                break

    def _open(self) -> int:
        return os.open(self.path, os.O_RDONLY)

    def _pieces(self) -> Iterator[bytes]:
        """Keep the file open and take pieces, mostly without a pause."""
        fd = self._open()
        while True:
            os.lseek(fd, 0, os.SEEK_SET)
            yield self._to_end(fd, 5, lambda: (random.random() < 0.01) * random.random())

    def _pieces_by_offset(self) -> Iterator[bytes]:
        """The same with pread(2)."""
        fd = self._open()
        while True:
            parts: list[bytes] = []
            while part := os.pread(fd, PIECE, sum(map(len, parts))):
                parts.append(part)
            yield b"".join(parts)

    def _pieces_and_fstat(self) -> Iterator[bytes]:
        """Ask how long the file is between pieces, and once in a while rest for over a second."""
        fd = self._open()
        while True:
            os.lseek(fd, 0, os.SEEK_SET)
            parts = []
            pauses = random.random() < 0.1
            while part := os.read(fd, PIECE):
                parts.append(part)
                if pauses:
                    time.sleep(random.random() * 1.2)
                os.fstat(fd)
            yield b"".join(parts)

    def _new_pieces(self) -> Iterator[bytes]:
        yield from self._anew(PIECE, 0)

    def _new_slow(self) -> Iterator[bytes]:
        yield from self._anew(4 * PIECE, 0.7)

    def _new_whole(self) -> Iterator[bytes]:
        yield from self._anew(WHOLE, 0)

    def _anew(self, size: int, pause: float) -> Iterator[bytes]:
        """Read once each in threads that nobody has seen before."""
        texts: list[bytes] = []

        def once() -> None:
            fd = self._open()
            texts.append(self._to_end(fd, size, lambda: random.random() * pause))
            os.close(fd)

        while True:
            thread = threading.Thread(target=once)
            thread.start()
            thread.join()
            yield texts.pop()

    def _whole(self) -> Iterator[bytes]:
        """Open, take all, close."""
        while True:
            fd = self._open()
            yield self._to_end(fd, WHOLE)
            os.close(fd)

    def _kept(self) -> Iterator[bytes]:
        """Become known, keep the file open, and take all of it at once."""
        readings = self._whole()
        for _ in range(4):
            yield next(readings)
        yield from self._first_kept()

    def _first_kept(self) -> Iterator[bytes]:
        """The same as who nobody has seen before."""
        fd = self._open()
        while True:
            yield os.pread(fd, WHOLE, 0)

    def _stat(self) -> Iterator[bytes]:
        while True:
            os.stat(self.path)
            yield b""

    def _send(self) -> Iterator[bytes]:
        """Send it to a pipe with sendfile(2), opened anew, some hundred times a second."""
        while True:
            fd = self._open()
            yield self._sent(fd)
            os.close(fd)
            time.sleep(random.random() * 0.01)

    def _send_kept(self) -> Iterator[bytes]:
        """The same from one open file, as fast as it goes."""
        fd = self._open()
        while True:
            yield self._sent(fd)

    def _map(self) -> Iterator[bytes]:
        """Map it, where that is allowed; a map shows what the file is at the moment."""
        while True:
            fd = self._open()
            try:
                with mmap.mmap(fd, os.fstat(fd).st_size, access=mmap.ACCESS_READ) as mapped:
                    mapped[:]
            except (OSError, ValueError):
                pass
            yield b""
            os.close(fd)

    @staticmethod
    def _sent(fd: int) -> bytes:
        out, into = os.pipe()
        try:
            size = os.sendfile(into, fd, 0, WHOLE)
            return os.read(out, WHOLE) if size else b""
        finally:
            os.close(into)
            os.close(out)

    @staticmethod
    def _to_end(fd: int, size: int, pause: Callable[[], float] | None = None) -> bytes:
        parts = []
        while part := os.read(fd, size):
            parts.append(part)
            if pause is not None:
                time.sleep(pause())
        return b"".join(parts)


if __name__ == "__main__":
    crowd = Crowd(sys.argv[1], float(sys.argv[2]))
    crowd.run(sys.argv[3:])
    print(json.dumps(sorted(crowd.seen)))
