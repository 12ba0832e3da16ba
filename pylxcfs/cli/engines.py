"""`cdi`, `hooks`, `docker-args`, `oci-spec`, `oci-hook` and `oci-runtime`.

How container engines are told of the views; what they are told is in attach/engines.py.
"""

from __future__ import annotations

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
    path: str,
    files: str | None,
    *,
    mounts: bool,
    hook: bool,
    socket: str | None,
) -> None:
    """Add hook, mounts and the agent's socket to a config.json. Raise UsageError."""
    paths = chosen(files, served(mountpoint))
    plain = [one for one in paths if one in engines.RUNC_ALLOWS or one.startswith("sys/")]
    added: list[dict[str, Any]] = [runtime.mount_of(mountpoint, one) for one in plain]
    try:
        runtime.patch_file(
            path,
            runtime.hook_of(mountpoint, paths) if hook else None,
            added if mounts else (),
            socket,
        )
    except (OSError, runtime.NotPatched) as error:
        raise UsageError(
            f"{path}: {getattr(error, 'strerror', None) or error}",
            "name the config.json of an OCI bundle",
        ) from error


def become(module: str, words: list[str]) -> None:
    """Become the hook or the runtime, without anything of pylxcfs but that file."""
    file = os.path.join(os.path.dirname(os.path.abspath(runtime.__file__)), f"{module}.py")
    os.execv(sys.executable, [sys.executable, "-ISE", file, *words])  # noqa: S606
