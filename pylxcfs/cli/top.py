"""`top`: reads keys, takes readings, and shows them until `q`.

What is shown is in monitor/screen.py.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import psutil

from pylxcfs.cli.options import Config
from pylxcfs.cli.status import place_of
from pylxcfs.errors import HostError
from pylxcfs.monitor import bindings, containers, instance, rates
from pylxcfs.monitor.rates import Host, Reading

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Seconds between two looks at the size of the terminal.
_LOOK_S: Final = 0.25
#: What keys send, by what they do. An arrow is one of the first two sequences.
_UP: Final = (b"\x1b[A", b"\x1bOA", b"k")
_DOWN: Final = (b"\x1b[B", b"\x1bOB", b"j")
_QUIT: Final = (b"q", b"Q", b"\x03")
#: A key is a sequence of the terminal, or one byte.
_KEY: Final = re.compile(rb"\x1b[\[O].|.", re.DOTALL)


def run(config: Config, interval_s: float) -> None:
    """Show it until the user ends it. Raise HostError where that is not possible."""
    if importlib.util.find_spec("rich") is None:
        raise HostError(
            "top needs the package rich, which is not installed",
            "install it beside pylxcfs: pip install 'pylxcfs[top]'",
        )
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise HostError("top needs a terminal", "for a program: pylxcfs status --json")
    if os.geteuid() != 0:
        raise HostError("only root may see containers", "run it with sudo")
    Top(config, interval_s).run()


class Top:
    """The loop around screens."""

    def __init__(self, config: Config, interval_s: float) -> None:
        self._place = place_of(config)
        self._interval_s = interval_s
        self._host = Host(psutil.virtual_memory().total, os.cpu_count() or 1)
        self._before: Reading | None = None
        self._now = self._read()
        self._order = 0
        self._first = 0

    def run(self) -> None:
        """Show screens until a key ends it."""
        from rich.console import Console
        from rich.live import Live

        console = Console()
        with (
            _single_keys(sys.stdin.fileno()),
            Live(console=console, screen=True, auto_refresh=False) as live,
        ):
            size, due = None, time.monotonic() + min(1.0, self._interval_s)
            while True:
                if time.monotonic() >= due:
                    self._before, self._now = self._now, self._read()
                    due = time.monotonic() + self._interval_s
                    size = None
                if console.size != size:
                    size = console.size
                    live.update(self._screen(size.width, size.height), refresh=True)
                for key in _keys(max(0.0, min(_LOOK_S, due - time.monotonic()))):
                    size = None
                    if key in _QUIT:
                        return
                    if key == b" ":
                        due = 0.0
                    elif key in (b"s", b"S"):
                        self._order = (self._order + 1) % len(rates.ORDERS)
                    elif key in _UP + _DOWN:
                        self._first += 1 if key in _DOWN else -1

    def _read(self) -> Reading:
        state = instance.gather(self._place)
        found = containers.listing(bindings.devices(state["mounts"]))
        return Reading(time.monotonic(), state, found)

    def _screen(self, width: int, height: int) -> RenderableType:
        from pylxcfs.monitor import screen

        order = rates.ORDERS[self._order]
        rows = rates.rows(self._before, self._now, self._host, order)
        self._first = max(0, min(self._first, len(rows) - screen.room(height)))
        view = screen.View(order, self._first)
        done = rates.rates(self._before, self._now)
        return screen.screen(self._now.state, done, rows, view, width, height)


def _keys(timeout_s: float) -> list[bytes]:
    """Return the keys that were pressed; none after the timeout."""
    if not select.select([sys.stdin], [], [], timeout_s)[0]:
        return []
    data = b""
    with contextlib.suppress(OSError):  # the terminal is gone: as if the user had ended it
        data = os.read(sys.stdin.fileno(), 64)
    return _KEY.findall(data or _QUIT[0])


@contextlib.contextmanager
def _single_keys(terminal: int) -> Iterator[None]:
    """Let keys come one by one, without an echo."""
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
