"""The one place that turns any failure into an answer: a bug of ours never ends the server.

pyfuse3 ends its main loop on any exception but FUSEError, and a thread would simply die; either
would take the views of every container with it. So every request goes through `Guard.call`.
Knows no view.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from pylxcfs.errors import PylxcfsError

T = TypeVar("T")
Args = ParamSpec("Args")

_log = logging.getLogger(__name__)

#: A traceback of the same place is logged once in this many seconds.
_QUIET_S = 60.0


class Attempt:
    """Work that nothing waits for, which may fail."""

    def __init__(self, guard: Guard, place: str) -> None:
        self._guard, self._place = guard, place

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        return self._guard.ended(self._place, error)


class Guard:
    """Runs what may fail and answers with the fallback when it does; counts failures by place."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._logged: dict[str, float] = {}
        self.failures: Counter[str] = Counter()
        #: Errors that are no bug: a source that went away, a text that makes no sense.
        self.unavailable: Counter[str] = Counter()

    def call(
        self,
        place: str,
        attempt: Callable[Args, T],
        fallback: Callable[Args, T],
        *args: Args.args,
        **kwargs: Args.kwargs,
    ) -> T:
        """Return `attempt(*args)`, or `fallback(*args)` if that raised.

        An error of ours (a source that went away, a text that makes no sense) is no bug and is
        logged at debug level; anything else is logged with its traceback once a minute a place.
        """
        try:
            return attempt(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  the one place where this is right
            self.ended(place, error)
        return fallback(*args, **kwargs)

    def attempt(self, place: str, work: Callable[[], object]) -> bool:
        """Do some work that no reader waits for; return whether it succeeded."""

        def done() -> bool:
            work()
            return True

        return self.call(place, done, lambda: False)

    def attempting(self, place: str) -> Attempt:
        """Return a context that ends with an error of the work in it, as `attempt` does.

        For work that awaits.
        """
        return Attempt(self, place)

    def ended(self, place: str, error: BaseException | None) -> bool:
        """Note how an attempt ended; return whether its error goes no further."""
        if isinstance(error, PylxcfsError):
            self.unavailable[place] += 1
            _log.debug("%s: %s; the fallback is served", place, error)
        elif isinstance(error, Exception):
            self._report(place, error)
        else:
            return False
        return True

    def warn(self, place: str, text: str, *args: object) -> None:
        """Log a warning, once a minute a place."""
        if self._is_due(place):
            _log.warning(text, *args)

    def _report(self, place: str, error: Exception) -> None:
        self.failures[place] += 1
        if self._is_due(place):
            _log.error("%s: a bug of pylxcfs; the fallback is served", place, exc_info=error)

    def _is_due(self, place: str) -> bool:
        now = self._clock()
        if now - self._logged.get(place, -_QUIET_S) < _QUIET_S:
            return False
        self._logged[place] = now
        return True
