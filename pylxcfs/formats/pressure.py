"""Parse and render pressure files and triggers (PSI).

/proc/pressure/* and v2's *.pressure, printed by psi_show (kernel/sched/psi.c):

    some avg10=0.12 avg60=0.05 avg300=0.01 total=58761459
    full avg10=0.00 avg60=0.00 avg300=0.00 total=40923116

Averages are percent of time over 10, 60 and 300 s, the total is microseconds. Older kernels
print no `full` line for cpu, and irq has only that line. v1 has no such files. A trigger is the
argument of psi_trigger_create: "some 150000 1000000", stall and window in microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pylxcfs.errors import FormatError

_WHAT = "pressure"

#: Longest window that the kernel accepts (WINDOW_MAX_US).
MAX_WINDOW_US = 10_000_000

#: Most digits of a number: 64 bits have at most 20.
_MAX_DIGITS = 20

_KEYS = (b"avg10", b"avg60", b"avg300", b"total")


class Stall(NamedTuple):
    """A line: averages in percent, total in microseconds."""

    avg10: float
    avg60: float
    avg300: float
    total_us: int


class Trigger(NamedTuple):
    """A condition for POLLPRI: `stall_us` of stalls within `window_us`."""

    kind: bytes
    stall_us: int
    window_us: int


def parse(text: bytes) -> dict[bytes, Stall]:
    """Return the lines by their first word (some, full), in order."""
    stalls: dict[bytes, Stall] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) != 5 or words[0] not in (b"some", b"full") or words[0] in stalls:
            raise FormatError(_WHAT, line)
        values: list[bytes] = []
        for key, word in zip(_KEYS, words[1:], strict=True):
            name, _, value = word.partition(b"=")
            if name != key:
                raise FormatError(_WHAT, line)
            values.append(value)
        stalls[words[0]] = Stall(
            _percent(values[0]), _percent(values[1]), _percent(values[2]), _count(values[3])
        )
    if not stalls:
        raise FormatError(_WHAT, text)
    return stalls


def render(stalls: Mapping[bytes, Stall]) -> bytes:
    """Render lines as the kernel does."""
    return b"".join(
        [
            b"%b avg10=%.2f avg60=%.2f avg300=%.2f total=%d\n" % (kind, *stall)
            for kind, stall in stalls.items()
        ]
    )


def parse_trigger(text: bytes) -> Trigger:
    """Parse a trigger.

    Raise FormatError for one that no kernel accepts.
    """
    words = text.rstrip(b"\0\n").split(b" ")
    if len(words) != 3 or words[0] not in (b"some", b"full"):
        raise FormatError("pressure trigger", text)
    trigger = Trigger(words[0], _count(words[1]), _count(words[2]))
    if not 0 < trigger.stall_us <= trigger.window_us <= MAX_WINDOW_US:
        raise FormatError("pressure trigger", text)
    return trigger


def render_trigger(trigger: Trigger) -> bytes:
    """Render a trigger as the kernel parses it."""
    return b"%b %d %d" % trigger


def _percent(word: bytes) -> float:
    whole, _, part = word.partition(b".")
    if len(whole) > _MAX_DIGITS or len(part) != 2 or not (whole.isdigit() and part.isdigit()):
        raise FormatError(_WHAT, word)
    return float(word)


def _count(word: bytes) -> int:
    if not word.isdigit() or len(word) > _MAX_DIGITS:
        raise FormatError(_WHAT, word)
    return int(word)
