"""Annotations and labels of a pod: what it asks for, and the keys of other webhooks.

Pure. A value that is not understood is left out and named in `Wishes.mistakes`, with the values
that are allowed; what follows from a mistake is decided by those who read the wishes.

    pylxcfs.io/view     all | proc | cpu | off   annotation or label
    pylxcfs.io/files    meminfo,cpuinfo,cpu      annotation; or: all, none
    pylxcfs.io/env      GOMAXPROCS,...           annotation; or: all, none
    pylxcfs.io/requests true | false             annotation: show requests where there is no limit
    pylxcfs.io/status   written by the webhook
    pylxcfs.io/requested  written by the webhook for the node: {"CONTAINER": {"cpu": "500m"}}

"all" of pylxcfs.io/view is what the webhook is set to, proc and cpu are parts of that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from pylxcfs.kubernetes import environment

DOMAIN: Final = "pylxcfs.io"
VIEW: Final = f"{DOMAIN}/view"
FILES: Final = f"{DOMAIN}/files"
ENV: Final = f"{DOMAIN}/env"
REQUESTS: Final = f"{DOMAIN}/requests"
REQUESTED: Final = f"{DOMAIN}/requested"
STATUS: Final = f"{DOMAIN}/status"

#: Annotations of other webhooks that mean VIEW.
ALIASES: Final = {
    "lxcfs-admission-webhook.raids-lab.github.io/mutate": "raids-lab",
    "lxcfs-admission-webhook.kubernetes.io/mutate": "kubeservice-stack",
    "mutating.lxcfs-admission-webhook.io/enable": "ymping",
    "lxcfs-admission-webhook.aliyun.com/mutate": "denverdino",
}

_YES: Final = ("all", "enabled", "true", "yes", "y", "on")
_NO: Final = ("off", "disabled", "false", "no", "n", "none")
#: Parts of the files, by what VIEW says.
PARTS: Final = {
    "proc": ("cpuinfo", "diskstats", "loadavg", "meminfo", "slabinfo", "stat", "swaps", "uptime"),
    "cpu": ("cpuinfo", "stat", "cpu"),
}

#: What runc lets bind mounts cover in /proc (checkProcMount, libcontainer/rootfs_linux.go) and
#: the directories of sysfs, by the name that a pod gives.
PATHS: Final = {
    "cpuinfo": "proc/cpuinfo",
    "diskstats": "proc/diskstats",
    "loadavg": "proc/loadavg",
    "meminfo": "proc/meminfo",
    "slabinfo": "proc/slabinfo",
    "stat": "proc/stat",
    "swaps": "proc/swaps",
    "uptime": "proc/uptime",
    "cpu": "sys/devices/system/cpu",
    "node": "sys/devices/system/node",
    "memory": "sys/devices/system/memory",
}

#: Those that every kernel has. A bind mount over a file that is missing keeps a pod from starting.
DEFAULT_FILES: Final = (
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "stat",
    "swaps",
    "uptime",
    "cpu",
)


class Wishes(NamedTuple):
    """What a pod asks for. `None` is "it does not say"."""

    inject: bool | None
    #: What VIEW says, if the pod has it.
    view: str | None
    #: A key of PARTS.
    part: str | None
    files: tuple[str, ...] | None
    env: tuple[str, ...] | None
    #: Where there is no limit, the request is shown.
    requests: bool
    #: Sentences for the user.
    mistakes: tuple[str, ...]


def wishes(annotations: Mapping[str, str], labels: Mapping[str, str]) -> Wishes:
    """Return what a pod with these annotations and labels asks for."""
    mistakes: list[str] = []
    words: list[str] = []
    places = [(VIEW, annotations), (VIEW, labels), *((key, annotations) for key in ALIASES)]
    for key, where in places:
        if key not in where:
            continue
        word = where[key].strip().lower()
        if word in _YES or word in _NO or (key == VIEW and word in PARTS):
            words.append(word)
        else:
            kind = "label" if where is labels else "annotation"
            allowed = "all, proc, cpu, off" if key == VIEW else "true, false"
            mistakes.append(f"{kind} {key}: {_short(where[key])} is not allowed, only: {allowed}")
    # One that says no is enough; of those that name a part, the annotation comes first.
    inject = not any(word in _NO for word in words) if words else None
    part = next((word for word in words if word in PARTS), None)
    files = _names(annotations, FILES, tuple(PATHS), mistakes)
    env = _names(annotations, ENV, tuple(environment.VARIABLES), mistakes)
    requests = annotations.get(REQUESTS, "no").strip().lower()
    if requests not in _YES and requests not in _NO:
        wrong = _short(annotations[REQUESTS])
        mistakes.append(f"annotation {REQUESTS}: {wrong} is not allowed, only: true, false")
    view = annotations.get(VIEW, labels.get(VIEW))
    return Wishes(inject, view, part, files, env, requests in _YES, tuple(mistakes))


def file_names(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of files in a list, and the words that are none."""
    return _listed(text, tuple(PATHS))


def variable_names(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of variables in a list, and the words that are none."""
    return _listed(text, tuple(environment.VARIABLES))


def _names(
    annotations: Mapping[str, str], key: str, allowed: Sequence[str], mistakes: list[str]
) -> tuple[str, ...] | None:
    if key not in annotations:
        return None
    known, unknown = _listed(annotations[key], allowed)
    if unknown:
        mistakes.append(
            f"annotation {key}: {', '.join(map(_short, unknown[:3]))} is not allowed, only:"
            f" {', '.join(allowed)} (or all, none)"
        )
        if not known:
            return None
    return known


def _listed(text: str, allowed: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    words = text.replace(",", " ").split()
    if words == ["all"]:
        return tuple(allowed), ()
    if words == ["none"]:
        return (), ()
    known: set[str] = set()
    unknown = []
    for word in words:
        name = word.strip("/")
        # A path is as good as its name: proc/meminfo, /proc/meminfo.
        if "/" in name and PATHS.get(name.rpartition("/")[2]) == name:
            name = name.rpartition("/")[2]
        if name in allowed:
            known.add(name)
        else:
            unknown.append(word)
    # In the order of the table: one text for one choice.
    return tuple(name for name in allowed if name in known), tuple(unknown)


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")
