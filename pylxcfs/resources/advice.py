"""One number for a program that wants no more, and the reason for it.

    from pylxcfs.resources import advice
    pool = ThreadPoolExecutor(advice.threads().value)

Without an argument the advice is for this process. The numbers follow from `Resources` alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from pylxcfs.resources.model import Resources

#: Parts of the memory for a heap. Under a limit the rest is for stacks, code, buffers outside of
#: the heap, and the page cache, which counts as well; without one others want memory, too.
_LIMITED: Final = (3, 4)
_UNLIMITED: Final = (1, 4)


class Advice(NamedTuple):
    """A number and why it is that."""

    value: int
    reason: str


def threads(resources: Resources | None = None) -> Advice:
    """Return how many threads can run at the same time, at least 1."""
    resources = _or_own(resources)
    cpu, sources = resources.cpu, resources.sources
    visible = len(cpu.visible)
    if cpu.affinity is not None and len(cpu.affinity) < visible:
        usable = len(cpu.affinity)
        return Advice(usable, f"sched_getaffinity allows {usable} of {_cpus(visible)}")
    decided = sources.get("cpu.visible")
    if decided is not None and decided == sources.get("cpu.quota"):
        what = "request" if "@" in decided.file else "quota"
        return Advice(visible, f"the {what} is {_cpus(cpu.quota or 0)}")
    if decided is not None and decided == sources.get("cpu.cpuset"):
        return Advice(visible, f"the cpuset has {_cpus(visible)}")
    online = f"{_cpus(visible)} {'is' if visible == 1 else 'are'} online"
    return Advice(visible, online + _doubt(resources))


def _cpus(number: float) -> str:
    return f"{number:g} {'CPU' if number == 1 else 'CPUs'}"


def heap_bytes(resources: Resources | None = None) -> Advice:
    """Return how large a garbage collector may let its heap grow, in bytes."""
    resources = _or_own(resources)
    memory = resources.memory
    limited = memory.limit_bytes is not None and memory.limit_bytes <= memory.total_bytes
    part, whole = _LIMITED if limited else _UNLIMITED
    what = f"{'the limit of' if limited else 'this machine with'} {memory.total_bytes}"
    reason = f"{part}/{whole} of {what} bytes{_doubt(resources)}"
    return Advice(memory.total_bytes * part // whole, reason)


def _doubt(resources: Resources) -> str:
    return "; limits are not known" if resources.scope == "unknown" else ""


def _or_own(resources: Resources | None) -> Resources:
    if resources is not None:
        return resources
    from pylxcfs.resources.query import of

    return of()
