"""The kernel's arithmetic of load averages (kernel/sched/loadavg.c), as pure values.

Fixed-point numbers that decay once every 5 seconds. Knows no clock and no process: loadavg.py
counts threads and steps these.
"""

from __future__ import annotations

from dataclasses import dataclass

from pylxcfs.units import NS_PER_S

FSHIFT = 11
FIXED_1 = 1 << FSHIFT
#: exp(-5 s / 1, 5, 15 min), in FSHIFT bits (linux/sched/loadavg.h).
EXP = (1884, 2014, 2037)

STEP_NS = 5 * NS_PER_S


@dataclass(frozen=True, slots=True)
class Averages:
    """Averages over 1, 5 and 15 minutes as fixed-point numbers."""

    fixed: tuple[int, int, int] = (0, 0, 0)

    def after(self, active: int, steps: int = 1) -> Averages:
        """Return the averages `steps` times 5 seconds later.

        With `active` threads all the time, as calc_load_n: steps that were missed are made up for
        with the count that came late.
        """
        one, five, fifteen = (
            _calc(load, _power(exp, steps), active * FIXED_1)
            for load, exp in zip(self.fixed, EXP, strict=True)
        )
        return Averages((one, five, fifteen))

    def values(self) -> tuple[float, float, float]:
        """Return them as numbers of threads."""
        one, five, fifteen = self.fixed
        return one / FIXED_1, five / FIXED_1, fifteen / FIXED_1


def _calc(load: int, exp: int, active: int) -> int:
    """calc_load (include/linux/sched/loadavg.h)."""
    new = load * exp + active * (FIXED_1 - exp)
    if active >= load:
        new += FIXED_1 - 1  # rounded up while it rises, or it would stop below its target
    return new // FIXED_1


def _power(base: int, exponent: int) -> int:
    """fixed_power_int: base ** exponent in fixed point, rounded after each multiplication."""
    result = FIXED_1
    while exponent:
        if exponent & 1:
            result = (result * base + FIXED_1 // 2) >> FSHIFT
        exponent >>= 1
        base = (base * base + FIXED_1 // 2) >> FSHIFT
    return result


@dataclass(frozen=True, slots=True)
class LoadState:
    """Load averages of a container, and the CLOCK_MONOTONIC of their last step."""

    averages: Averages
    at_ns: int
