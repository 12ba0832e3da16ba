"""CPU time of a container for each CPU that it sees: the one computation for stat and uptime.

The container's own total (v1 cpuacct, v2 cpu.stat) is the truth. It is spread over the visible
CPUs so that their sum is that total to the nanosecond, and only what came since the last
reading is spread, so no counter ever runs backwards:

- v1 knows what each CPU did: that stays where it was, by CPU number. What CPUs outside of the
  view did, and on v2 everything, is spread evenly.
- More than a CPU could have done since the last reading goes to CPUs that had time left.
- A CPU's idle time is what is left of the time that the container has lived, so that in two
  readings a second apart (`top`) each CPU has one second more.
- A CPU that leaves the view hands its time to the others; one that comes has been idle so far.
- A total that fell by a second or more is another counter (init moved to another cgroup): what
  was shown stays and grows on with it. One that fell by less was read by a thread that is late,
  and the total stands still until it is back.

advance() is the whole machine: numbers in, numbers out, its memory is the ledger.
"""

from __future__ import annotations

import threading
from operator import add

from pylxcfs.units import NS_PER_S, NS_PER_TICK
from pylxcfs.views.model import Container, CpuUsage, Ledger

#: (user, nice, system, idle) in nanoseconds; user does not include nice.
Times = tuple[int, int, int, int]

#: Ledger key of the container's total as counted so far; its idle is 0. Real CPUs are >= 0.
_TOTAL = -1
#: Ledger key of what v1 said last of CPU n is _OWN - n: (user, 0, system, 0).
_OWN = -2

_NOTHING: Times = (0, 0, 0, 0)

#: The kernel adds a running task's time in steps of its own tick, 10 ms at most, so a CPU may
#: seem to have done this much more than it can have since the last reading.
_STEP_NS = NS_PER_TICK
#: A CPU whose times are ahead of the container's age by less than this is not idle until they meet.
_SLACK_NS = NS_PER_S
#: Further ahead (it took over the time of a CPU that left), it slows down by this part instead,
#: since a container that looks frozen for an hour would be worse.
_SLOWER = 8

#: Two threads may read for one container, if one was given up as blocked and comes back.
_ONE_AT_A_TIME = threading.Lock()


def read(container: Container, cpus: tuple[int, ...], now_ns: int) -> list[Times] | None:
    """Times of `cpus`, in order; None if the container's CPU time is not accounted."""
    usage = container.cpu_usage()
    if usage is None:
        return None
    started_ns = container.started_ns()
    with _ONE_AT_A_TIME:
        return advance(container.ledger, cpus, usage, started_ns, now_ns)


def advance(
    ledger: Ledger, cpus: tuple[int, ...], usage: CpuUsage, started_ns: int, now_ns: int
) -> list[Times]:
    """Bring `ledger` up to `now_ns` and return the times of `cpus`, in order."""
    last = ledger.cpu_ns
    last_ns = ledger.last_ns
    if not last or not started_ns <= last_ns <= now_ns + NS_PER_S:
        # Empty, or of another container or boot.
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
    newcomer = (0, 0, 0, lived)
    before = [last.get(cpu, newcomer) for cpu in cpus]
    if usage.per_cpu is None:
        users = _evenly(user, count, 0)
        systems = _evenly(system, count, user)
    else:
        own_user, own_system = _own(last, now, cpus, usage)
        users = _spread(user, own_user)
        systems = _spread(system, own_system)
        # Usually no CPU has done more than there was time for.
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
    """Growth of (user, nice, system) since `counted`, and what is counted then.

    The kernel may move time from user to system and back (it scales both to the exact total):
    the total decides, and the parts follow as far as they can without running backwards.
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
    """What each of `cpus` itself did since the last reading, as (users, systems); v1 only."""
    per_cpu = usage.per_cpu or {}
    users: list[int] = []
    systems: list[int] = []
    for cpu in cpus:
        user, system = per_cpu.get(cpu, (0, 0))
        key = _OWN - cpu
        now[key] = (user, 0, system, 0)
        # A CPU that just came into the view did what it did before for others to show.
        was = last.get(key, now[key] if last else _NOTHING)
        users.append(max(0, user - was[0]))
        systems.append(max(0, system - was[2]))
    return users, systems


def _evenly(amount: int, count: int, first: int) -> list[int]:
    """Split an amount among CPUs; what cannot be split goes to one after the other from `first` on.

    Amounts that begin where the one before has ended give no CPU more than a nanosecond more than
    another, all together.
    """
    each, left = divmod(amount, count)
    shares = [each] * count
    for i in range(first, first + left):
        shares[i % count] += 1
    return shares


def _spread(amount: int, wanted: list[int]) -> list[int]:
    """Give each its wish and the rest evenly; or, if there is too little, in proportion."""
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
    """Move what is above a CPU's `room` to CPUs that are below theirs, as far as there are any."""
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
