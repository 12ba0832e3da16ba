"""CPU time of a container: of each visible CPU, and of all CPUs that it has had.

stat and uptime both use this module, so they agree. The container's total (v1 cpuacct, v2
cpu.stat) is distributed over the visible CPUs: the sum over all CPUs that the container has ever
seen is the total to the nanosecond. Only the growth since the last reading is distributed, so no
counter runs backwards:

- v1 has times per CPU: each visible CPU keeps its own, by CPU number. The time of CPUs outside the
  view, and on v2 all time, is distributed evenly.
- Time that exceeds what a CPU can have run since the last reading goes to CPUs with time left.
- Of the time between two readings, a CPU was idle for what its other times did not grow by, so
  that between two readings a second apart (`top`) the times of each CPU grow by one second.
- The time for which the host was suspended is no idle time, as in the kernel. What was suspended
  before the first reading is not known, and counts.
- A CPU that leaves the view keeps its times, as an offline CPU does, and the total over all CPUs
  contains them. A CPU that returns goes on from there. A CPU that enters the view for the first
  time starts at 0, as one that is plugged in.
- A total that falls by a second or more is another counter (init moved to another cgroup): the
  times shown stay, and the growth of the new counter is added. A total that falls by less was
  read by a thread that is late: the times stay until the total is higher again.

advance() does no I/O, and its only state is the ledger.

Unlike LXCFS, which on v2 shows the host's times, and on v1 without --enable-cfs leaves out the time
of CPUs outside the view.
"""

from __future__ import annotations

import threading
from operator import add, sub
from typing import NamedTuple

from pylxcfs.formats.stat import Stat
from pylxcfs.units import NS_PER_S, NS_PER_TICK
from pylxcfs.views.model import Container, CpuUsage, Host, Ledger

#: (user, nice, system, idle) in nanoseconds; user does not include nice.
Times = tuple[int, int, int, int]

#: Ledger key of the total that has been distributed; its idle is 0. Keys of CPUs are >= 0.
_TOTAL = -1
#: The ledger key _OWN - n exists while CPU n is visible: (user, 0, system, ahead). The first three
#: are v1's last times of the CPU, `ahead` is by how much its times exceed the time it was visible.
_OWN = -2

#: The ledger key of what the `cpu` line has more than the lines of CPUs, where the state of the
#: server before is older than its text: offline CPUs, and fractions of ticks. No CPU has it.
_REST = 1 << 13

_NOTHING: Times = (0, 0, 0, 0)

#: The kernel adds a running task's time in steps of its own tick, 10 ms at most, so the time of a
#: CPU may grow by this much more than the time since the last reading.
_STEP_NS = NS_PER_TICK
#: The idle time of a CPU whose times exceed the time that it was visible stands still until they
#: agree, for at most this long.
_MOST_AHEAD_NS = NS_PER_S

#: Two threads may read for one container: one was abandoned as blocked, and continues.
_ONE_AT_A_TIME = threading.Lock()


class CpuTimes(NamedTuple):
    """The times that a container sees."""

    #: The sum over all CPUs that the container has seen, offline ones included.
    total: Times
    #: The times of the visible CPUs, in order.
    cpus: list[Times]


def read(container: Container, cpus: tuple[int, ...], host: Host) -> CpuTimes | None:
    """Return the times in total and of `cpus`; None without CPU accounting."""
    usage = container.cpu_usage()
    if usage is None:
        return None
    started_ns = container.started_ns()
    now_ns, awake_ns = host.now_ns(), host.awake_ns()
    with _ONE_AT_A_TIME:
        times = advance(container.ledger, cpus, usage, started_ns, now_ns, awake_ns)
        return CpuTimes(total(container.ledger), times)


def total(ledger: Ledger) -> Times:
    """Return the sum over all CPUs of a ledger."""
    users = nices = systems = idles = 0
    for cpu, (user, nice, system, idle) in ledger.cpu_ns.items():
        if cpu >= 0:
            users += user
            nices += nice
            systems += system
            idles += idle
    return users, nices, systems, idles


def advance(
    ledger: Ledger,
    cpus: tuple[int, ...],
    usage: CpuUsage,
    started_ns: int,
    now_ns: int,
    awake_ns: int,
) -> list[Times]:
    """Advance `ledger` to `now_ns` and return the times of `cpus`.

    `now_ns` and `started_ns` are CLOCK_BOOTTIME, `awake_ns` is CLOCK_MONOTONIC.
    """
    last = ledger.cpu_ns
    last_ns = ledger.last_ns
    if not last or not started_ns <= last_ns <= now_ns + NS_PER_S:
        # The ledger is empty, or of another container or boot.
        last, last_ns = {}, started_ns
        elapsed = max(0, now_ns - started_ns)
    else:
        elapsed = max(0, awake_ns - ledger.awake_ns)

    spent = last.get(_TOTAL, _NOTHING)
    counted, (user, nice, system) = _grown(spent, usage)
    now: dict[int, Times] = {_TOTAL: counted}
    count = len(cpus)
    excess = user + nice + system - elapsed * count
    for cpu in last.keys() - cpus:
        if cpu < 0:
            continue
        now[cpu] = left = last[cpu]
        if _OWN - cpu not in last:
            continue
        # It was visible at the last reading.
        ledger.unsaved = True
        if excess > 0:
            # It ran what the others cannot have run.
            part = min(excess, elapsed)
            excess -= part
            its_user = min(part, user)
            its_system = min(part - its_user, system)
            its_nice = part - its_user - its_system
            user, nice, system = user - its_user, nice - its_nice, system - its_system
            now[cpu] = (left[0] + its_user, left[1] + its_nice, left[2] + its_system, left[3])

    before = [last.get(cpu, _NOTHING) for cpu in cpus]
    aheads = [last.get(_OWN - cpu, _NOTHING)[3] for cpu in cpus]
    if usage.per_cpu is None:
        users = _evenly(user, count, spent[0])
        systems = _evenly(system, count, spent[2])
        owns = [_NOTHING] * count
    else:
        owns = [(its[0], 0, its[1], 0) for its in [usage.per_cpu.get(cpu, (0, 0)) for cpu in cpus]]
        # The earlier time of a CPU that enters the view is already shown on other CPUs.
        were = [
            last.get(_OWN - cpu, own if last else _NOTHING)
            for cpu, own in zip(cpus, owns, strict=True)
        ]
        users = _spread(
            user, [max(0, own[0] - was[0]) for own, was in zip(owns, were, strict=True)]
        )
        systems = _spread(
            system, [max(0, own[2] - was[2]) for own, was in zip(owns, were, strict=True)]
        )
        # Usually no CPU's time grew by more than the time that has passed.
        if max(map(add, users, systems)) > elapsed:
            _level(users, systems, [elapsed + max(0, _STEP_NS - ahead) for ahead in aheads])

    nices = _evenly(nice, count, spent[1])
    times: list[Times] = []
    for i, (was_user, was_nice, was_system, idle) in enumerate(before):
        free = elapsed - users[i] - systems[i] - nices[i] - aheads[i]
        idle += max(0, free)
        ahead = min(max(0, -free), _MOST_AHEAD_NS)
        if ledger.inherited:
            # The earlier server may have shown this CPU idle while it ran, since the kernel had not
            # yet added the time.
            idle += _STEP_NS
            ahead += _STEP_NS
        shown = (was_user + users[i], was_nice + nices[i], was_system + systems[i], idle)
        now[cpus[i]] = shown
        now[_OWN - cpus[i]] = (owns[i][0], 0, owns[i][2], ahead)
        times.append(shown)

    ledger.cpu_ns = now
    ledger.inherited = False
    ledger.awake_ns = max(ledger.awake_ns, awake_ns) if last else awake_ns
    ledger.last_ns = max(last_ns, now_ns)
    return times


def resume(ledger: Ledger, shown: Stat, started_ns: int, asleep_ns: int) -> None:
    """Advance a ledger to the times that an earlier server has shown, if they are newer.

    `shown` has the host's CPU numbers. `asleep_ns` is CLOCK_BOOTTIME minus CLOCK_MONOTONIC.
    """
    last = dict(ledger.cpu_ns)
    last_ns, awake_ns = ledger.last_ns, ledger.awake_ns
    if not last:
        last_ns, awake_ns = started_ns, max(0, started_ns - asleep_ns)
    counted = last.get(_TOTAL, _NOTHING)
    passed = 0
    for cpu, columns in shown.cpus.items():
        was = last.get(cpu, _NOTHING)
        last[cpu] = now = _later(was, _times(columns))
        user, nice, system, idle = map(sub, now, was)
        passed = max(passed, user + nice + system + idle)
        counted = (counted[0] + user, counted[1] + nice, counted[2] + system, 0)
        own = last.get(_OWN - cpu, (was[0], 0, was[2], 0))
        last[_OWN - cpu] = (own[0] + user, 0, own[2] + system, own[3])
    ledger.cpu_ns = last
    missing = map(sub, _times(shown.total), total(ledger))
    user, nice, system, idle = (max(0, one) for one in missing)
    if user or nice or system or idle:
        rest = last.get(_REST, _NOTHING)
        last[_REST] = (rest[0] + user, rest[1] + nice, rest[2] + system, rest[3] + idle)
    last[_TOTAL] = (counted[0] + user, counted[1] + nice, counted[2] + system, 0)
    ledger.last_ns, ledger.awake_ns = last_ns + passed, awake_ns + passed
    ledger.inherited = True


def _times(columns: tuple[int, ...]) -> Times:
    user, nice, system, idle = (ticks * NS_PER_TICK for ticks in columns[:4])
    return user, nice, system, idle


def _later(one: Times, other: Times) -> Times:
    user, nice, system, idle = map(max, one, other)
    return user, nice, system, idle


def _grown(counted: Times, usage: CpuUsage) -> tuple[Times, tuple[int, int, int]]:
    """Return the new `counted`, and the growth of (user, nice, system).

    The kernel may move time between user and system, since it scales both to the exact total. So
    the total counts, and the parts follow it as far as they can without running backwards.
    """
    spent = usage.user_ns + usage.system_ns - (counted[0] + counted[1] + counted[2])
    if -NS_PER_S < spent < 0:
        return counted, (0, 0, 0)
    if spent < 0:
        nice = min(usage.nice_ns, usage.user_ns)
        return (usage.user_ns - nice, nice, usage.system_ns, 0), (0, 0, 0)
    system = min(max(0, usage.system_ns - counted[2]), spent)
    nice = min(max(0, usage.nice_ns - counted[1]), spent - system)
    user = spent - system - nice
    return (counted[0] + user, counted[1] + nice, counted[2] + system, 0), (user, nice, system)


def _evenly(amount: int, count: int, first: int) -> list[int]:
    """Split an amount evenly; the remainder goes to CPUs from `first` on.

    `first` is the sum of what was split before: the shares then add up to the same, in however many
    parts the sum came, so that a server that replaces a killed one shows no less.
    """
    each, left = divmod(amount, count)
    shares = [each] * count
    for i in range(first % count, first % count + left):
        shares[i % count] += 1
    return shares


def _spread(amount: int, wanted: list[int]) -> list[int]:
    """Grant each share of `wanted`, then split the rest evenly.

    If `amount` is too small, split it in proportion to `wanted`.
    """
    wishes = sum(wanted)
    if wishes == amount:
        return wanted
    if wishes > amount:
        shares: list[int] = []
        wished = given = 0
        for wish in wanted:
            wished += wish
            upto = amount * wished // wishes
            shares.append(upto - given)
            given = upto
        return shares
    rest = _evenly(amount - wishes, len(wanted), 0)
    return [wish + more for wish, more in zip(wanted, rest, strict=True)]


def _level(users: list[int], systems: list[int], room: list[int]) -> None:
    """Move time above a CPU's `room` to CPUs below theirs, if any."""
    for i in range(len(users)):
        excess = users[i] + systems[i] - room[i]
        if excess <= 0:
            continue
        for j in range(len(users)):
            move = min(excess, room[j] - users[j] - systems[j])
            if move <= 0:
                continue
            user = min(move, users[i])
            users[i] -= user
            users[j] += user
            systems[i] -= move - user
            systems[j] += move - user
            excess -= move
            if not excess:
                break
