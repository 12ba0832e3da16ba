"""Seccomp profiles in which the two calls are notified.

A profile is that of containers/common and Docker (JSON, with `syscalls` of names and an action). It
keeps everything but the two names, which move to a rule of their own, so nothing is allowed that
was not, and every architecture of the profile is notified. Pure.
"""

from __future__ import annotations

from typing import Any, Final

from pylxcfs.errors import DocumentError

NAMES: Final = ("sched_getaffinity", "sysinfo")
NOTIFY: Final = "SCMP_ACT_NOTIFY"
_ALLOW: Final = "SCMP_ACT_ALLOW"


def notified(profile: dict[str, Any], socket: str) -> dict[str, Any]:
    """Return a profile that notifies of the two calls at `socket`. Raise DocumentError."""
    rules = profile.get("syscalls")
    if not isinstance(rules, list) or not isinstance(profile.get("defaultAction"), str):
        raise DocumentError('no seccomp profile: no "syscalls" and "defaultAction" in it')
    kept: list[Any] = []
    for rule in rules:
        names = rule.get("names") if isinstance(rule, dict) else None
        if not isinstance(names, list):
            raise DocumentError('no seccomp profile: a rule has no "names"')
        left = [name for name in names if name not in NAMES]
        if left:
            kept.append({**rule, "names": left})
    kept.append({"names": list(NAMES), "action": NOTIFY})
    return {**profile, "listenerPath": socket, "syscalls": kept}


def everything(architectures: list[str]) -> dict[str, Any]:
    """Return a profile that allows all calls: for containers that had none."""
    return {"defaultAction": _ALLOW, "architectures": architectures, "syscalls": []}
