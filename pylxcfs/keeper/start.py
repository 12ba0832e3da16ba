"""How a keeper begins: its arguments, and a mount, adopted from an earlier keeper or new.

Standard library only. What happens after the beginning is in keeper.py, the arguments are in
keepersettings.py.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import MutableMapping
from typing import NoReturn

from pylxcfs.errors import HostError
from pylxcfs.keeper import child, fusemount, holder, sdnotify
from pylxcfs.keeper.keeper import CONNECTION, ERR, INIT, WARNING, Keeper, say
from pylxcfs.keeper.settings import Settings, parse


def _adopt(
    settings: Settings, notifier: sdnotify.Notifier, env: MutableMapping[str, str]
) -> tuple[int, int] | None:
    """Return (connection, init) of a mount left by an earlier keeper, if it still is there."""
    given = sdnotify.listen_fds(env)
    for number in given.values():
        os.set_inheritable(number, False)
    pair: tuple[int, int] | None = None
    if CONNECTION in given and INIT in given:
        pair = given[CONNECTION], given[INIT]
    else:
        pair = holder.take(settings.runtime_dir, settings.mountpoint)
    if pair is None:
        return None
    if fusemount.is_connected(pair[0]) and fusemount.is_mount_of(pair[1], settings.mountpoint):
        return pair
    say(WARNING, "the mount that was kept is gone; mounting anew")
    for name, number in zip((CONNECTION, INIT), pair, strict=True):
        notifier.send("FDSTOREREMOVE=1", f"FDNAME={name}")
        os.close(number)
    return None


def _mount(mountpoint: str) -> tuple[int, int]:
    connection = fusemount.mount(mountpoint)
    request = fusemount.read_init(connection)
    mounted = fusemount.mounted_at(mountpoint)
    return connection, fusemount.remember(request, mounted.device if mounted else "0:0")


def _protect_from_oom() -> None:
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("-1000")
    except OSError:
        pass  # needs CAP_SYS_RESOURCE; the unit sets it as well


def main() -> NoReturn:
    """Run the keeper; leave without the interpreter's own end, where signals would be lost."""
    child.block_signals()
    child.set_name("pylxcfs-keeper")
    _protect_from_oom()
    settings = parse(sys.argv[1:])
    notifier = sdnotify.Notifier(os.environ)
    if settings.pid_fd >= 0:
        os.set_inheritable(settings.pid_fd, False)
    try:
        pair = _adopt(settings, notifier, os.environ)
        connection, init = pair or _mount(settings.mountpoint)
        sdnotify.forget(os.environ)
        code = Keeper(settings, notifier, connection, init, adopted=pair is not None).run()
    except OSError as error:
        say(ERR, f"the keeper cannot go on: {error}")
        code = HostError.exit_code
    with contextlib.suppress(OSError):
        os.unlink(settings.pidfile)
    os._exit(code)
