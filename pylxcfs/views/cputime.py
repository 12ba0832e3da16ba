"""CPU time of a container on each visible CPU.

stat and uptime both use this module, so they agree. The container's total (v1 cpuacct, v2
cpu.stat) is distributed over the visible CPUs: their sum is the total to the nanosecond. Only the
growth since the last reading is distributed, so no counter runs backwards:

- v1 has times per CPU: each visible CPU keeps its own, by CPU number. The time of CPUs outside the
  view, and on v2 all time, is distributed evenly.
- Time that exceeds what a CPU can have run since the last reading goes to CPUs with time left.
- A CPU's idle time is the age of the container minus the CPU's other times, so that between two
  readings a second apart (`top`) the times of each CPU grow by one second.
- The times of a CPU that leaves the view are distributed to the others. A CPU that enters the view
  has been idle until then.
- A total that falls by a second or more is another counter (init moved to another cgroup): the
  times shown stay, and the growth of the new counter is added. A total that falls by less was
  read by a thread that is late: the times stay until the total is higher again.

advance() does no I/O, and its only state is the ledger.

Unlike LXCFS, which on v2 shows the host's times, and on v1 without --enable-cfs leaves out the time
of CPUs outside the view.
"""

from __future__ import annotations

import threading
from operator import add

from pylxcfs.units import NS_PER_S, NS_PER_TICK
from pylxcfs.views.model import Container, CpuUsage, Ledger

#: (user, nice, system, idle) in nanoseconds; user does not include nice.
Times = tuple[int, int, int, int]

#: Ledger key of the total that has been distributed; its idle is 0. Keys of CPUs are >= 0.
_TOTAL = -1
#: The ledger key of v1's last times of CPU n is _OWN - n: (user, 0, system, 0).
_OWN = -2

_NOTHING: Times = (0, 0, 0, 0)

#: The kernel adds a running task's time in steps of its own tick, 10 ms at most, so the time of a
#: CPU may grow by this much more than the time since the last reading.
_STEP_NS = NS_PER_TICK
#: While the times of a CPU exceed the container's age by less than this, its idle time stands
#: still.
_SLACK_NS = NS_PER_S
#: Where they exceed it by more (the CPU took over the time of one that left the view), idle time
#: grows by this part less: idle time that stands still for an hour would look like a hang.
_SLOWER = 8

#: Two threads may read for one container: one was abandoned as blocked, and continues.
_ONE_AT_A_TIME = threading.Lock()


def read(container: Container, cpus: tuple[int, ...], now_ns: int) -> list[Times] | None:
    """Return the times of `cpus`, in order; None without CPU accounting."""
    usage = container.cpu_usage()
    if usage is None:
        return None
    started_ns = container.started_ns()
    with _ONE_AT_A_TIME:
        return advance(container.ledger, cpus, usage, started_ns, now_ns)


def advance(
    ledger: Ledger, cpus: tuple[int, ...], usage: CpuUsage, started_ns: int, now_ns: int
) -> list[Times]:
    """Advance `ledger` to `now_ns` and return the times of `cpus`."""
    last = ledger.cpu_ns
    last_ns = ledger.last_ns
    if not last or not started_ns <= last_ns <= now_ns + NS_PER_S:
        # The ledger is empty, or of another container or boot.
        last, last_ns = {}, started_ns
    elapsed = max(0, now_ns - last_ns)
    lived = last_ns - started_ns

    counted, (user, nice, system) = _grown(last.get(_TOTAL, _NOTHING), usage)
    for key in last.keys() - cpus:
        if key >= 0:
            left = last[key]
            user += left[0]
            nice += left[1]
            system += left[2]

    now: dict[int, Times] = {_TOTAL: counted}
    count = len(cpus)
    idle_so_far = (0, 0, 0, lived)
    before = [last.get(cpu, idle_so_far) for cpu in cpus]
    if usage.per_cpu is None:
        users = _evenly(user, count, 0)
        systems = _evenly(system, count, user)
    else:
        own_user, own_system = _own(last, now, cpus, usage)
        users = _spread(user, own_user)
        systems = _spread(system, own_system)
        # Usually no CPU's time grew by more than the time that has passed.
        if max(map(add, users, systems)) > elapsed:
            room = [elapsed + max(0, _STEP_NS + lived - sum(was)) for was in before]
            _level(users, systems, room)

    nices = _evenly(nice, count, user + system)
    times: list[Times] = []
    for i, (was_user, was_nice, was_system, idle) in enumerate(before):
        free = elapsed - users[i] - systems[i] - nices[i]
        if free > 0:
            ahead = was_user + was_nice + was_system + idle - lived
            if ahead > _SLACK_NS:
                idle += free - free // _SLOWER
            elif ahead < free:
                idle += free - ahead
        shown = (was_user + users[i], was_nice + nices[i], was_system + systems[i], idle)
        now[cpus[i]] = shown
        times.append(shown)

    ledger.cpu_ns = now
    ledger.last_ns = max(last_ns, now_ns)
    return times


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


def _own(
    last: dict[int, Times], now: dict[int, Times], cpus: tuple[int, ...], usage: CpuUsage
) -> tuple[list[int], list[int]]:
    """Return v1's growth of user and of system time on each CPU."""
    per_cpu = usage.per_cpu or {}
    users: list[int] = []
    systems: list[int] = []
    for cpu in cpus:
        user, system = per_cpu.get(cpu, (0, 0))
        key = _OWN - cpu
        now[key] = (user, 0, system, 0)
        # The earlier time of a CPU that enters the view is already shown on other CPUs.
        was = last.get(key, now[key] if last else _NOTHING)
        users.append(max(0, user - was[0]))
        systems.append(max(0, system - was[2]))
    return users, systems


def _evenly(amount: int, count: int, first: int) -> list[int]:
    """Split an amount evenly; the remainder goes to CPUs from `first` on.

    If each of several amounts starts where the one before ended, the sums of two CPUs differ by at
    most one nanosecond.
    """
    each, left = divmod(amount, count)
    shares = [each] * count
    for i in range(first, first + left):
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
