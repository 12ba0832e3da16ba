"""Variables for programs that read no files: what each says of a container's limits.

Pure, but for `gpus_here`. VARIABLES is the list. A variable is left out where the limit that it
tells of is not set: then the program's own default is right.
"""

from __future__ import annotations

import fnmatch
import math
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Final, NamedTuple

_MIB: Final = 1 << 20


class Limits(NamedTuple):
    """Limits of a container. `None` is "no limit", for GPUs "not known"."""

    #: Whole CPUs, at least one.
    cpus: int | None = None
    memory_bytes: int | None = None
    gpus: int | None = None


def _cpus(limits: Limits) -> str | None:
    return None if limits.cpus is None else str(limits.cpus)


def _memory_mib(limits: Limits) -> str | None:
    return None if limits.memory_bytes is None else str(max(1, limits.memory_bytes // _MIB))


def _gpus(limits: Limits) -> str | None:
    return None if limits.gpus is None else str(limits.gpus)


def _go_memory(limits: Limits) -> str | None:
    """Return nine tenths: the limit counts the stacks of C code and the page cache as well."""
    if limits.memory_bytes is None:
        return None
    return f"{max(1, limits.memory_bytes * 9 // 10 // _MIB)}MiB"


def _uv_threads(limits: Limits) -> str | None:
    """Return no less than libuv's default, 4, and no more than its greatest number."""
    return None if limits.cpus is None else str(min(1024, max(4, limits.cpus)))


def _java(limits: Limits) -> str | None:
    """Return the CPUs alone: the JVM reads the memory limit from its cgroup."""
    return None if limits.cpus is None else f"-XX:ActiveProcessorCount={limits.cpus}"


#: Each variable, and its value for limits.
VARIABLES: Final[Mapping[str, Callable[[Limits], str | None]]] = {
    "SLURM_CPUS_ON_NODE": _cpus,
    "SLURM_CPUS_PER_TASK": _cpus,
    "SLURM_MEM_PER_NODE": _memory_mib,
    "SLURM_GPUS_PER_NODE": _gpus,
    "GOMAXPROCS": _cpus,
    "GOMEMLIMIT": _go_memory,
    "OMP_NUM_THREADS": _cpus,
    "PYTHON_CPU_COUNT": _cpus,
    "UV_THREADPOOL_SIZE": _uv_threads,
    "RAYON_NUM_THREADS": _cpus,
    "JAVA_TOOL_OPTIONS": _java,
}

#: Device resources that count as GPUs, and those of the same vendors that do not.
_GPUS: Final = (
    "nvidia.com/*",
    "amd.com/gpu*",
    "gpu.intel.com/i915",
    "gpu.intel.com/xe",
    "habana.ai/gaudi",
    "huawei.com/Ascend*",
    "*/gpu",
)
_NO_GPUS: Final = (
    "nvidia.com/gpumem*",
    "nvidia.com/gpucores",
    "nvidia.com/priority",
    "nvidia.com/hostdev",
    "nvidia.com/rdma*",
    "nvidia.com/*-nic*",
)

_SUFFIXES: Final = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    **{suffix: Decimal(1000) ** (i + 1) for i, suffix in enumerate("kMGTPE")},
    **{f"{suffix}i": Decimal(1024) ** (i + 1) for i, suffix in enumerate("KMGTPE")},
}
_QUANTITY: Final = re.compile(
    r"\+?([0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})"
    r"(?:[eE]([+-]?[0-9]{1,2})|(n|u|m|k|[KMGTPE]i|[MGTPE])?)",
    re.ASCII,
)


def quantity(text: object) -> Decimal | None:
    """Return the number of a Kubernetes quantity: "500m", "2Gi", "1e3"; None for nonsense."""
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        return None
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        return None
    number, exponent, suffix = match.groups()
    try:
        value = Decimal(number) * _SUFFIXES[suffix or ""]
        return value.scaleb(int(exponent)) if exponent else value
    except InvalidOperation:
        return None


def limits_of(resources: Mapping[str, object]) -> Limits:
    """Return the limits in a container's `resources.limits`; nonsense is no limit."""
    cpus, memory = amounts_of(resources)
    devices = [
        int(value)
        for name, text in resources.items()
        if _is_gpu(name) and (value := quantity(text)) is not None
    ]
    gpus = sum(devices) if devices else None
    return Limits(None if cpus is None else max(1, math.ceil(cpus)), memory, gpus)


def amounts_of(resources: Mapping[str, object]) -> tuple[float | None, int | None]:
    """Return CPUs and bytes of memory; None for nothing and for nonsense."""
    cpu, memory = (quantity(resources.get(name)) for name in ("cpu", "memory"))
    return float(cpu) if cpu else None, int(memory) if memory else None


def _is_gpu(resource: str) -> bool:
    def matches(patterns: Iterable[str]) -> bool:
        return any(fnmatch.fnmatchcase(resource, pattern) for pattern in patterns)

    return matches(_GPUS) and not matches(_NO_GPUS)


def values(limits: Limits, names: Iterable[str]) -> dict[str, str]:
    """Return the variables of these names that the limits say something about."""
    found = {name: VARIABLES[name](limits) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def gpus_here(dev: str = "/dev") -> int | None:
    """Return how many devices of NVIDIA this process has; None if there is none."""
    return gpus_of(f"/dev/{name}" for name in os.listdir(dev))


def gpus_of(devices: Iterable[str]) -> int | None:
    """Return how many of these paths are GPUs of NVIDIA; None if none is."""
    return sum(bool(re.fullmatch(r"/dev/nvidia[0-9]+", path)) for path in devices) or None


def gpus_named(visible: str) -> int | None:
    """Return how many GPUs NVIDIA_VISIBLE_DEVICES names one by one; None if it does not."""
    names = [name for name in visible.split(",") if name.strip()]
    return None if not names or {*names} & {"all", "none", "void"} else len(names)


def shell(found: Mapping[str, str]) -> str:
    """Return lines for a shell: export NAME=VALUE."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in found.items())
