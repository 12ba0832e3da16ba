"""`env`: variables for programs that read no files, for a process or for a pod's limits.

What each variable says is in kubernetes/environment.py.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from pylxcfs.cli import resources
from pylxcfs.errors import UsageError
from pylxcfs.kubernetes import annotations as keys
from pylxcfs.kubernetes import environment
from pylxcfs.kubernetes.annotations import variable_names
from pylxcfs.kubernetes.environment import Limits
from pylxcfs.resources import advice
from pylxcfs.server.settings import Settings


def chosen(names: str | None) -> tuple[str, ...]:
    """Return the variables of --only, or all. Raise UsageError."""
    if names is None:
        return tuple(environment.VARIABLES)
    known, unknown = variable_names(names)
    if unknown:
        raise UsageError(
            f"unknown variable {unknown[0]}", f"one of: {', '.join(environment.VARIABLES)}"
        )
    return known


def of_process(settings: Settings, pid: int) -> Limits:
    """Return the limits that a process has. Raise UserError."""
    found = resources.of_process(settings, pid)
    memory = found.memory
    # Programs count the CPUs of their affinity by themselves; a variable would allow them more.
    memory_bytes = None if memory.limit_bytes is None else memory.total_bytes
    return Limits(advice.threads(found).value, memory_bytes, _gpus(pid))


def of_text(text: str) -> Limits:
    """Return the limits in text as cpu=2,memory=4Gi,nvidia.com/gpu=1. Raise UsageError."""
    resources: dict[str, object] = {}
    for word in text.split(","):
        name, _, value = word.strip().partition("=")
        if not name or environment.quantity(value) is None:
            raise UsageError(
                f"{word.strip()!r} is no limit", "write --limits cpu=2,memory=4Gi,nvidia.com/gpu=1"
            )
        resources[name] = value
    return environment.limits_of(resources)


def of_pod(path: str, name: str | None) -> Limits:
    """Return the limits of a container of a pod in JSON. Raise UsageError."""
    try:
        if path == "-":
            pod = json.load(sys.stdin)
        else:
            with open(path, "rb") as file:
                pod = json.load(file)
        resources = _container(pod, name)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "name a file, or - for stdin") from error
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} has no pod in JSON", "kubectl get pod NAME -o json") from error
    if resources is None:
        raise UsageError(f"{path} has no container {name}", "leave out --container for the first")
    return environment.limits_of(resources)


def _container(pod: Any, name: str | None) -> dict[str, Any] | None:  # noqa: ANN401  JSON
    spec = pod["spec"]
    asked = keys.wishes((pod.get("metadata") or {}).get("annotations") or {}, {})
    kinds = ["requests", "limits"] if asked.requests else ["limits"]
    for container in [*spec["containers"], *(spec.get("initContainers") or [])]:
        if name is None or container["name"] == name:
            found: dict[str, Any] = {}
            for kind in kinds:
                for owner in (spec, container):
                    found |= (owner.get("resources") or {}).get(kind) or {}
            return found
    return None


def _gpus(pid: int) -> int | None:
    try:
        return environment.gpus_here(f"/proc/{pid}/root/dev")
    except OSError:
        return None
