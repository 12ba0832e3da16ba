"""Names of containers, as their runtimes call them.

From the cgroup of a process, where every runtime puts the container's id or name, and for Docker
and Podman from the files in which they keep the name of an id. No runtime is asked.

    /docker/ID, docker-ID.scope                              Docker
    /libpod_parent/libpod-ID, libpod-ID.scope[/container]    Podman
    /lxc.payload.NAME, /lxc/NAME                             LXC, Incus (NAME is PROJECT_NAME)
    machine-NAME.scope                                       systemd-nspawn, libvirt
    kubepods.../podUID/ID, cri-containerd-ID.scope, crio-ID.scope   Kubernetes
"""

from __future__ import annotations

import functools
import json
import os
import re
from typing import Any, Final, NamedTuple

from pylxcfs.errors import PylxcfsError
from pylxcfs.formats import pidcgroup
from pylxcfs.sources.kept import read_whole

_ID: Final = r"[0-9a-f]{64}"
_END: Final = r"(?:\.scope)?(?:/|$)"
#: With the innermost container of a path.
_PATTERNS: Final = tuple(
    (runtime, re.compile(f".*{pattern}{_END}"))
    for runtime, pattern in (
        ("kubernetes", rf"/kubepods.*/(?:cri-containerd-|crio-|docker-)?({_ID})"),
        ("docker", rf"/docker[/-]({_ID})"),
        ("podman", rf"/libpod-({_ID})"),
        ("lxc", r"/lxc\.payload\.([^/]+?)"),
        ("lxc", r"/lxc/([^/]+?)"),
        ("machine", r"/machine-([^/]+?)"),
    )
)
#: UID of a pod, or a checksum for a static pod; a slice of systemd has _ for -.
_POD: Final = re.compile(r"/kubepods.*[/-]pod([0-9a-f][0-9a-f_-]{31,35})(?:\.slice)?/")
#: Letters of an id that name it in other tools' tables.
_SHORT: Final = 12


class Named(NamedTuple):
    """A container's runtime ("" if it is not known), its id and its name."""

    runtime: str
    ident: str
    name: str

    def matches(self, text: str) -> bool:
        """Return whether a user may call it that: by name, or by the beginning of the id."""
        return bool(text) and (text == self.name or self.ident.startswith(text))


def of(pid: int, proc: str = "/proc") -> Named:
    """Return the names of the container that a process is in."""
    try:
        paths = pidcgroup.parse(read_whole(f"{proc}/{pid}/cgroup"))
    except PylxcfsError:
        return Named("", "", "")
    return by_paths(tuple(sorted(set(paths.values()), key=len, reverse=True)))


def pod_of(pid: int, proc: str = "/proc") -> str | None:
    """Return the UID of the pod of Kubernetes that a process is in."""
    try:
        paths = pidcgroup.parse(read_whole(f"{proc}/{pid}/cgroup"))
    except PylxcfsError:
        return None
    found = filter(None, map(_POD.search, set(paths.values())))
    return next((match[1].replace("_", "-") for match in found), None)


@functools.lru_cache(maxsize=4096)
def by_paths(paths: tuple[str, ...], root: str = "/") -> Named:
    """Return the names of a container with these cgroups, the most telling path first."""
    for path in paths:
        for runtime, pattern in _PATTERNS:
            match = pattern.match(path)
            if match:
                ident = match[1]
                if runtime == "machine":
                    ident = _unescaped(ident)
                return Named(runtime, ident, _name(runtime, ident, root))
    longest = paths[0] if paths else ""
    return Named("", longest, os.path.basename(longest) or longest)


def _name(runtime: str, ident: str, root: str) -> str:
    if runtime == "docker":
        config = _json(os.path.join(root, f"var/lib/docker/containers/{ident}/config.v2.json"))
        if isinstance(config, dict) and isinstance(config.get("Name"), str):
            return str(config["Name"]).lstrip("/")
    if runtime == "podman":
        for driver in ("overlay", "vfs"):
            path = f"var/lib/containers/storage/{driver}-containers/containers.json"
            for entry in _json(os.path.join(root, path)) or []:
                if entry.get("id") == ident and entry.get("names"):
                    return str(entry["names"][0])
    return ident[:_SHORT] if re.fullmatch(_ID, ident) else ident


def _json(path: str) -> Any:  # noqa: ANN401  whatever the file holds
    try:
        with open(path, "rb") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def _unescaped(name: str) -> str:
    r"""Return a unit's name without systemd's escapes ("\x2d")."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), name)
