"""Work in a background thread, at a bounded share of one CPU.

The load sampler and the search for processes use it: their work grows with what containers
contain, so it must not run where readers wait. Knows nothing of either.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

#: Runs work and keeps an error in it from ending the thread: (place, work).
Attempt = Callable[[str, Callable[[], object]], object]

#: Seconds that `close` waits for the slice in progress.
_JOIN_S = 2.0

_END = object()


def run(place: str, work: Callable[[], object]) -> None:
    """Run work and let its errors through."""
    work()


def _never() -> float | None:
    return None


class Background:
    """A thread that runs `work` on request.

    Each item that `work` yields ends a slice, and a pause follows. `share`: the most of one CPU's
    time that the slices take. `period`: returns the seconds until the next run without a request,
    None for never. Requests that come while the work runs lead to one more run.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], Iterator[object]],
        *,
        share: float,
        period: Callable[[], float | None] = _never,
        attempt: Attempt = run,
    ) -> None:
        self._name = name
        self._work = work
        self._pauses = 1 / share - 1
        self._period = period
        self._attempt = attempt
        self._changed = threading.Condition()
        self._requested = False
        self._running = False
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._main, name=self._name, daemon=True)
        self._thread.start()

    def request(self) -> None:
        """Ask for a run and return at once, also before `start`."""
        with self._changed:
            self._requested = True
            self._changed.notify_all()

    def settle(self, timeout_s: float) -> bool:
        """Wait until no run is due; return False after the timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._requested or self._running), timeout_s)

    def close(self) -> None:
        """End the thread after its current slice."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(_JOIN_S)

    def _main(self) -> None:
        while self._next():
            self._attempt(self._name, self._run)
            with self._changed:
                self._running = False
                self._changed.notify_all()

    def _next(self) -> bool:
        """Wait for a request or the period; return False once closed."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._requested or self._closing.is_set(), self._period()
            )
            self._requested = False
            self._running = not self._closing.is_set()
            return self._running

    def _run(self) -> None:
        slices = self._work()
        more = True
        while more:
            began = time.thread_time()
            more = next(slices, _END) is not _END
            # CPU time: the time that the thread waits is no cost. After the last slice, too, as
            # the next request may be there already.
            if self._closing.wait((time.thread_time() - began) * self._pauses):
                return
