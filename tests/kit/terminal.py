"""A program in a pseudo-terminal, and what its screen shows (pyte)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from typing import Any

import pyte


class Terminal:
    """`with` starts a program in a terminal of `width` x `height`, and kills it in the end."""

    def __init__(self, argv: Sequence[str], width: int, height: int, **options: Any) -> None:
        self.screen = pyte.Screen(width, height)
        self._stream = pyte.ByteStream(self.screen)
        self._master, slave = pty.openpty()
        self.raw = b""
        self.resize(width, height)
        environment = {**os.environ, "TERM": "xterm-256color", **options.pop("env", {})}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            environment.pop(name, None)
        try:
            self.process = subprocess.Popen(
                argv,
                stdin=slave,
                stdout=slave,
                stderr=slave,
                start_new_session=True,
                env=environment,
                **options,
            )
        finally:
            os.close(slave)

    def resize(self, width: int, height: int) -> None:
        """Change the size of the window, as its owner does."""
        size = struct.pack("HHHH", height, width, 0, 0)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)
        self.screen.resize(height, width)

    def press(self, keys: bytes) -> None:
        """Type."""
        os.write(self._master, keys)

    def lines(self) -> list[str]:
        """Return what the screen shows."""
        return [line.rstrip() for line in self.screen.display]

    def wait(self, shown: Callable[[list[str]], bool], timeout: float = 30.0) -> list[str]:
        """Return the screen once it shows that."""
        deadline = time.monotonic() + timeout
        while True:
            self._take(0.05)
            if shown(self.lines()):
                return self.lines()
            assert time.monotonic() < deadline, "the screen shows:\n" + "\n".join(self.lines())

    def end(self, timeout: float = 30.0) -> int:
        """Return the exit code of a program that ends."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None and time.monotonic() < deadline:
            self._take(0.05)
        return self.process.wait(timeout=1)

    def _take(self, seconds: float) -> None:
        if select.select([self._master], [], [], seconds)[0]:
            with contextlib.suppress(OSError):  # EIO: the program has ended
                data = os.read(self._master, 1 << 16)
                self.raw += data
                self._stream.feed(data)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=30)
        os.close(self._master)
