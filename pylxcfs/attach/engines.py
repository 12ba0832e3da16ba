"""What container engines are told: CDI specification, hooks.d file, arguments of docker run.

Made from the same hook and mounts for all (runtime.py). Writes files of ours alone.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from typing import Any, Final

from pylxcfs.attach.runtime import RESOURCES, hook_of, mount_of, resources_mount

#: `pylxcfs.io/view=all` and so on.
CDI_KIND: Final = "pylxcfs.io/view"
CDI_FILE: Final = "pylxcfs.json"
HOOKS_FILE: Final = "pylxcfs.json"
ANNOTATION: Final = "io.pylxcfs.view"

#: What runc lets bind mounts cover in /proc (checkProcMount, libcontainer/rootfs_linux.go), of what
#: pylxcfs serves. The hook is not bound by that.
RUNC_ALLOWS: Final = tuple(
    f"proc/{name}"
    for name in (
        "cpuinfo",
        "diskstats",
        "loadavg",
        "meminfo",
        "slabinfo",
        "stat",
        "swaps",
        "uptime",
    )
)
_CPU: Final = "sys/devices/system/cpu"
#: The oldest version that has all that is used; Podman 4.3 knows no newer one.
_CDI_VERSION: Final = "0.3.0"


def kinds(served: Sequence[str]) -> dict[str, list[str]]:
    """Return the paths of each selection by its name: all, proc and cpu."""
    return {
        "all": list(served),
        "proc": [path for path in served if path.startswith("proc/")],
        "cpu": [path for path in served if path in ("proc/cpuinfo", "proc/stat", _CPU)],
    }


def mounts(mountpoint: str, paths: Sequence[str]) -> list[dict[str, Any]]:
    """Return the bind mounts of what runc lets them cover."""
    return [
        mount_of(mountpoint, path)
        for path in paths
        if path in RUNC_ALLOWS or path.startswith("sys/")
    ]


def cdi(mountpoint: str, served: Sequence[str], resources: str | None = None) -> bytes:
    """Return the CDI specification: devices all, proc and cpu, and resources for the socket.

    Mounts are for runtimes without hooks; the hook covers what runc refuses as a mount. The socket
    is no part of `all`: where it is not served any more, containers with that would not start.
    """
    edits = {
        name: {
            "mounts": [_cdi_mount(mount) for mount in mounts(mountpoint, paths)],
            "hooks": [{"hookName": "createContainer", **hook_of(mountpoint, paths)}],
        }
        for name, paths in kinds(served).items()
    }
    if resources is not None:
        edits["resources"] = {"mounts": [_cdi_mount(resources_mount(resources))]}
    devices = [{"name": name, "containerEdits": edit} for name, edit in edits.items()]
    return _text({"cdiVersion": _CDI_VERSION, "kind": CDI_KIND, "devices": devices})


def _cdi_mount(mount: dict[str, Any]) -> dict[str, Any]:
    return {
        "hostPath": mount["source"],
        "containerPath": mount["destination"],
        "options": mount["options"],
    }


def hooks(mountpoint: str, served: Sequence[str]) -> bytes:
    """Return the file for hooks.d of Podman and CRI-O, switched on by an annotation."""
    when = {"annotations": {f"^{ANNOTATION}$": "^(all|true)$"}}
    hook = hook_of(mountpoint, served)
    return _text({"version": "1.0.0", "hook": hook, "when": when, "stages": ["createContainer"]})


def docker_args(mountpoint: str, paths: Sequence[str], resources: str | None = None) -> str:
    """Return the arguments of `docker run`: what runc lets mounts cover, and the socket."""
    words = []
    for path in paths:
        if path in RUNC_ALLOWS or path.startswith("sys/"):
            words += ["-v", f"{mountpoint}/{path}:/{path}:ro"]
    if resources is not None:
        # Of a source that is missing -v makes a directory, where no socket could be bound then.
        words += ["--mount", f"type=bind,src={resources},dst=/{RESOURCES},ro"]
    return shlex.join(words)


def docker_runtime(
    mountpoint: str, python: str, file: str, socket: str | None, resources: str
) -> bytes:
    """Return the part of daemon.json that adds the runtime `pylxcfs`.

    `socket`: that of the seccomp agent, if it answers system calls as well. `resources`: where the
    resources socket is, or would be; the runtime looks for it at each start.
    """
    words = ["-ISE", file, "--pylxcfs-mountpoint", mountpoint, "--pylxcfs-resources", resources]
    words += ["--pylxcfs-seccomp", socket] if socket is not None else []
    return _text({"runtimes": {"pylxcfs": {"path": python, "runtimeArgs": words}}})


def install(directory: str, name: str, content: bytes) -> str:
    """Write a file of ours, whole or not at all; return its path. Raise OSError."""
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, name)
    with open(f"{path}.new", "wb") as file:
        file.write(content)
    os.replace(f"{path}.new", path)
    return path


def uninstall(directory: str, name: str) -> str | None:
    """Remove a file of ours; return its path, None if there was none. Raise OSError."""
    path = os.path.join(directory, name)
    try:
        os.unlink(path)
    except FileNotFoundError:
        return None
    return path


def _text(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=2).encode() + b"\n"
