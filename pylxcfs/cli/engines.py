"""`cdi`, `hooks`, `docker-args`, `oci-spec`, `oci-hook` and `oci-runtime`.

How container engines are told of the views; what they are told is in attach/engines.py.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from pylxcfs.attach import engines, runtime, views
from pylxcfs.errors import HostError, UsageError


def served(mountpoint: str | None = None) -> list[str]:
    """Return the paths that this host has.

    Of the directories of devices those that the mount has.
    """
    devices = views.DEVICES if mountpoint is not None else ()
    return [
        *(path for path in views.paths() if os.path.exists(f"/{path}")),
        *(path for path in devices if os.path.lexists(f"{mountpoint}/{path}")),
    ]


def resources_place(runtime_dir: str) -> str:
    """Return where the resources socket of an instance is, or would be if it was served."""
    try:
        with open(os.path.join(runtime_dir, "status.json"), "rb") as file:
            found = json.load(file)["resources"]
    except (OSError, ValueError, KeyError, TypeError):
        found = None  # no instance runs, or one of an older version
    return str(found or os.path.join(runtime_dir, "resources.sock"))


def resources_served(runtime_dir: str) -> str | None:
    """Return where the resources socket is; None if it is not served."""
    place = resources_place(runtime_dir)
    return place if runtime.is_socket(place) else None


def with_resources(
    files: str | None, mountpoint: str, runtime_dir: str
) -> tuple[list[str], str | None]:
    """Return the paths of --files, and the resources socket if it is among them."""
    socket = resources_served(runtime_dir)
    known = [*served(mountpoint), *([runtime.RESOURCES] if socket else [])]
    paths = chosen(files, known)
    views_of = [path for path in paths if path != runtime.RESOURCES]
    return views_of, socket if runtime.RESOURCES in paths else None


def everything() -> list[str]:
    """Return all that can be covered, by any instance."""
    return [path for path in (*views.paths(), *views.DEVICES) if os.path.exists(f"/{path}")]


def chosen(files: str | None, known: list[str]) -> list[str]:
    """Return the paths of --files, or all that are known. Raise UsageError."""
    if files is None:
        return known
    wanted = [path.strip().strip("/") for path in files.split(",") if path.strip()]
    for path in wanted:
        if path not in known:
            raise UsageError(f"{path} is not served", f"one of: {', '.join(known)}")
    return wanted


def change(action: str, directory: str, name: str, content: Callable[[], bytes]) -> str:
    """Install, remove or return a file for an engine; return what to say."""
    if action == "print":
        return content().decode().rstrip("\n")
    try:
        if action == "install":
            return f"wrote {engines.install(directory, name, content())}"
        path = engines.uninstall(directory, name)
    except OSError as error:
        raise HostError(
            f"{directory}: {error.strerror}", "run it as root, or name another with --directory"
        ) from error
    return f"removed {path}" if path else f"there is no {os.path.join(directory, name)}"


def patch_spec(
    mountpoint: str,
    runtime_dir: str,
    path: str,
    files: str | None,
    *,
    mounts: bool,
    hook: bool,
    socket: str | None,
) -> str:
    """Add hook, mounts and both sockets to a config.json; return what to say. Raise UsageError."""
    paths, resources = with_resources(files, mountpoint, runtime_dir)
    resources = resources if mounts else None
    plain = [one for one in paths if one in engines.RUNC_ALLOWS or one.startswith("sys/")]
    added: list[dict[str, Any]] = [runtime.mount_of(mountpoint, one) for one in plain]
    try:
        bound = runtime.patch_file(
            path,
            runtime.hook_of(mountpoint, paths) if hook else None,
            added if mounts else (),
            socket,
            resources,
        )
    except (OSError, runtime.NotPatched) as error:
        raise UsageError(
            f"{path}: {getattr(error, 'strerror', None) or error}",
            "name the config.json of an OCI bundle",
        ) from error
    if resources and not bound:
        return f"{runtime.RESOURCES} was left out: the runtime could not make it in this bundle"
    return ""


def become(module: str, words: list[str]) -> None:
    """Become the hook or the runtime, without anything of pylxcfs but that file."""
    file = os.path.join(os.path.dirname(os.path.abspath(runtime.__file__)), f"{module}.py")
    os.execv(sys.executable, [sys.executable, "-ISE", file, *words])  # noqa: S606
