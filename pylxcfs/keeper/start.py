"""How a keeper begins: its arguments and its mounts.

Mounts are adopted from an earlier keeper, or new. What happens after the beginning is in
keeper.py, the arguments are in settings.py. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import MutableMapping
from typing import NoReturn

from pylxcfs.errors import HostError, UserError
from pylxcfs.keeper import child, fusemount, holder, listeners, mountpoint, resources, sdnotify
from pylxcfs.keeper.fusemount import CALLER, OWN, Mount
from pylxcfs.keeper.holder import PREVIOUS
from pylxcfs.keeper.keeper import Keeper
from pylxcfs.keeper.report import ERR, WARNING, say
from pylxcfs.keeper.settings import Settings, parse


class _Kept:
    """Descriptors of an earlier keeper, from systemd's fd store or a holder."""

    def __init__(
        self, settings: Settings, notifier: sdnotify.Notifier, env: MutableMapping[str, str]
    ) -> None:
        self._notifier = notifier
        self._given = sdnotify.listen_fds(env)
        for number in self._given.values():
            os.set_inheritable(number, False)
        if not self._given:
            self._given = holder.take(settings.runtime_dir, settings.mountpoint)

    def mount(self, kind: str, path: str) -> Mount | None:
        """Return the mount of this kind, if it can be used."""
        names = f"pylxcfs-{kind}", f"pylxcfs-{kind}-memory"
        if any(name not in self._given for name in names):
            return None
        kept = Mount(kind, path, *(self._given.pop(name) for name in names))
        if kept.is_usable():
            return kept
        say(WARNING, f"the mount at {path} that was kept is gone; mounting again")
        kept.detach()
        self._drop(kept.descriptors)
        return None

    def previous(self, path: str) -> dict[str, int]:
        """Return the descriptors of the previous version's mount.

        That had no caller mount. It is detached; containers that were started before the upgrade
        have files of it.
        """
        found = {name: self._given.pop(name) for name in PREVIOUS if name in self._given}
        connection, init = (found.get(name, -1) for name in PREVIOUS)
        if init >= 0:
            mounted = fusemount.mounted_at(path)
            if mounted and mounted.device == fusemount.device_of_previous(init):
                fusemount.detach(path)
        if min(connection, init) < 0 or not fusemount.is_connected(connection):
            self._drop(found)
            return {}
        say(
            WARNING,
            "containers that were started before the upgrade see the host's values until they"
            " are restarted",
        )
        return found

    def listeners(self) -> dict[str, int]:
        """Return the seccomp listeners of containers that run."""
        found = listeners.named(self._given)
        for name in found:
            del self._given[name]
        return found

    def resources(self, settings: Settings) -> dict[str, int]:
        """Return the listening socket of the resources service, if there is to be one."""
        return resources.take(self._given, settings.runtime_dir, wanted=settings.resources)

    def drop_rest(self) -> None:
        """Forget what is not wanted any more, or no version that is known has kept."""
        self._drop(self._given)

    def _drop(self, descriptors: dict[str, int]) -> None:
        for name, number in descriptors.items():
            self._notifier.send("FDSTOREREMOVE=1", f"FDNAME={name}")
            os.close(number)


def _mount(kind: str, path: str) -> Mount:
    mountpoint.clean_dead(path)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o755)
    return fusemount.make(kind, path)


def _protect_from_oom() -> None:
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("-1000")
    except OSError:
        pass  # needs CAP_SYS_RESOURCE; the unit sets it as well


def _run(settings: Settings) -> int:
    notifier = sdnotify.Notifier(os.environ)
    kept = _Kept(settings, notifier, os.environ)
    sdnotify.forget(os.environ)
    own = kept.mount(OWN, settings.mountpoint)
    caller = kept.mount(CALLER, settings.caller_mountpoint)
    previous = kept.previous(settings.mountpoint)
    calls = kept.listeners()
    resources_socket = kept.resources(settings)
    kept.drop_rest()
    mounts = {
        OWN: own or _mount(OWN, settings.mountpoint),
        CALLER: caller or _mount(CALLER, settings.caller_mountpoint),
    }
    adopted = own is not None or bool(previous)
    keeper = Keeper(
        settings,
        notifier,
        mounts,
        previous,
        adopted=adopted,
        listeners=calls,
        resources_socket=resources_socket,
    )
    return keeper.run()


def main() -> NoReturn:
    """Run the keeper; leave without the interpreter's own end.

    Signals would be lost in that.
    """
    child.block_signals()
    child.set_name("pylxcfs-keeper")
    _protect_from_oom()
    settings = parse(sys.argv[1:])
    for number in (settings.pid_fd, settings.config_fd):
        if number >= 0:
            os.set_inheritable(number, False)
    try:
        code = _run(settings)
    except UserError as error:
        say(ERR, str(error))
        say(ERR, error.hint)
        code = error.exit_code
    except OSError as error:
        say(ERR, f"the keeper cannot go on: {error}")
        code = HostError.exit_code
    with contextlib.suppress(OSError):
        os.unlink(settings.pidfile)
    os._exit(code)
