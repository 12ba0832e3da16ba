"""`attach`, `detach` and the keeper's companion: containers by pid or name, and what was done.

How it is done is in the room attach/.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from pylxcfs import log
from pylxcfs.attach import containers, watch, work
from pylxcfs.attach.containers import Container, printable
from pylxcfs.attach.mounting import FAILED, LEFT, Outcome
from pylxcfs.attach.views import Mounts
from pylxcfs.cli import engines, runtime
from pylxcfs.cli.options import Config
from pylxcfs.errors import HostError, UsageError
from pylxcfs.keeper import child, instance

#: Exit code if something failed in a container.
INCOMPLETE = 7

_MOST_DOCUMENT = 1 << 20


def attach(
    config: Config, names: Sequence[str], every: bool, files: str | None
) -> list[dict[str, Any]]:
    """Attach containers; return what was done in each, as --json prints it."""
    _need_root()
    keeper = instance.owner(config.pid_path)
    if keeper is None:
        raise HostError("no instance runs", "start one: pylxcfs mount (or name its --runtime-dir)")
    place = instance.mountpoint_of(keeper) or config.mountpoint
    mounts = Mounts.find(place, runtime.caller_mount(config))
    if mounts is None:
        raise HostError("the instance has no mount here", "see its log: pylxcfs status")
    wanted = engines.chosen(files, engines.served(place))
    return _each(names, every, lambda one: work.attach(mounts, one, wanted, take_over=True))


def detach(names: Sequence[str], every: bool, files: str | None) -> list[dict[str, Any]]:
    """Detach containers; return what was done in each, as --json prints it."""
    _need_root()
    wanted = engines.chosen(files, engines.everything())
    return _each(names, every, lambda one: work.detach(one, wanted))


def companion(config_fd: int) -> None:
    """Look after containers for the keeper, until it ends this process."""
    child.set_name("pylxcfs-attach")
    config = Config.parse(os.pread(config_fd, _MOST_DOCUMENT, 0))
    log.setup(config.log_level)
    mounts = Mounts.find(config.mountpoint, runtime.caller_mount(config))
    if mounts is None:
        return
    watcher = watch.Watch(mounts, engines.served(config.mountpoint))
    if config.heal:
        watcher.heal()
    if config.attach_new:
        watcher.attach_new()
    elif config.move_new:
        watcher.move_new()


def exit_code(done: list[dict[str, Any]]) -> int:
    """Return the exit code that says how it went."""
    failed = (one["error"] or any(file["what"] == FAILED for file in one["files"]) for one in done)
    return INCOMPLETE if any(failed) else 0


def render(done: list[dict[str, Any]]) -> str:
    """Return what was done as text for people."""
    lines = []
    for one in done:
        counts: dict[str, int] = {}
        for file in one["files"]:
            counts[file["what"]] = counts.get(file["what"], 0) + 1
        text = ", ".join(f"{count} {what}" for what, count in counts.items())
        text = one["error"] or text or "nothing to do"
        lines.append(f"{printable(one['name'])} (pid {one['pid']}): {text}")
        lines += [
            f"  {printable(file['target'])}: {file['what']}: {printable(file['why'])}"
            for file in one["files"]
            if file["what"] in (FAILED, LEFT)
        ]
    return "\n".join(lines) or "no container runs"


def _each(
    names: Sequence[str], every: bool, what: Callable[[Container], list[Outcome]]
) -> list[dict[str, Any]]:
    if every == bool(names):
        raise UsageError(
            "name containers, or give --all", "as in: pylxcfs attach web1 (a name, an id or a pid)"
        )
    found = containers.running() if every else [one for name in names for one in _find(name)]
    done = []
    for container in found:
        error, outcomes = "", []
        try:
            outcomes = what(container)
        except OSError as failure:
            error = f"cannot be entered: {failure.strerror or failure}"
        finally:
            os.close(container.pidfd)
        done.append(
            {
                "name": container.name,
                "pid": container.pid,
                "error": error,
                "files": [outcome._asdict() for outcome in outcomes],
            }
        )
    return done


def _find(name: str) -> list[Container]:
    if name.isdigit():
        try:
            container = containers.by_pid(int(name))
        except OSError:
            raise HostError(
                f"there is no process {name}", "see ps -e, or name the container"
            ) from None
        found = [container]
    else:
        found = containers.by_name(name)
    if not found:
        raise HostError(f"no running container is called {name}", "see pylxcfs attach --all")
    for container in found:
        if work.is_host(container):
            raise UsageError(
                f"process {container.pid} is in no container: its mounts are the host's",
                "name a process inside of a container",
            )
    return found


def _need_root() -> None:
    if os.geteuid() != 0:
        raise HostError("only root may do this", "run it with sudo")
