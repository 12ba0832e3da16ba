"""The companion of a keeper: heals containers, and attaches new ones.

A new container is noticed by the cgroup that its runtime makes for it: inotify sees what is made
through the cgroup filesystem. Its mounts may not be ready then, so all processes are looked through
a few times after that. A walk costs some microseconds a process; walks pause so long that they take
5 % of one CPU at most.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Callable, Sequence
from typing import Final

from pylxcfs.attach import containers, inotify, work
from pylxcfs.attach.containers import Container
from pylxcfs.attach.mounting import ATTACHED, FAILED, LEFT, REPLACED, Outcome
from pylxcfs.attach.views import Mounts
from pylxcfs.errors import PylxcfsError
from pylxcfs.sources.cgroups import Hierarchies

_log = logging.getLogger(__name__)

#: Seconds after a cgroup was made at which processes are looked through.
_LOOKS_S: Final = (0.02, 0.1, 0.3, 1.0, 3.0)
#: And without any sign, as a cgroup may have been made before the container.
_SELDOM_S: Final = 10.0
#: A walk that took so long is followed by a pause of so many times that.
_PAUSE: Final = 20
#: Seconds after which a container whose root is the host's is taken for set up. A runtime that
#: makes a root for it has done so before that.
_SETTLED_S: Final = 1.0


class Watch:
    """Looks after the containers of one pair of mounts."""

    def __init__(self, mounts: Mounts, wanted: Sequence[str]) -> None:
        self._mounts = mounts
        self._wanted = wanted
        self._said: set[tuple[str, str]] = set()

    def heal(self) -> None:
        """Replace dead and old mounts in all containers."""
        for container in containers.running():
            self._do(container, lambda one: work.heal(self._mounts, one))

    def attach_new(self) -> None:
        """Attach containers, as they come, for ever."""
        notify = inotify.Inotify()
        watched = _watch_all(notify)
        poller = select.poll()
        poller.register(notify.fileno(), select.POLLIN)
        due = list(_LOOKS_S[:1])
        done: set[str] = set()
        began = time.monotonic()
        pause_until = 0.0
        while True:
            now = time.monotonic()
            at = max(pause_until, began + due[0] if due else now + _SELDOM_S)
            if poller.poll(max(0.0, at - now) * 1000):
                for directory in notify.made(watched):
                    _watch(notify, watched, directory)
                began, due = time.monotonic(), list(_LOOKS_S)
                continue
            if due:
                due.pop(0)
            start = time.monotonic()
            done = self._attach_all(done)
            pause_until = time.monotonic() + _PAUSE * (time.monotonic() - start)

    def _attach_all(self, done: set[str]) -> set[str]:
        """Attach those whose mount namespace is not among `done`; return all that are now."""
        still: set[str] = set()
        for container in containers.running():
            namespace = container.namespace
            if namespace in done:
                still.add(namespace)
                os.close(container.pidfd)
            elif containers.is_set_up(container, _SETTLED_S):
                self._do(container, self._attach)
                still.add(namespace)
            else:
                os.close(container.pidfd)
        return still

    def _attach(self, container: Container) -> list[Outcome]:
        return work.attach(self._mounts, container, self._wanted, take_over=False)

    def _do(self, container: Container, what: Callable[[Container], list[Outcome]]) -> None:
        try:
            outcomes = what(container)
        except (OSError, PylxcfsError) as error:
            self._say(container, f"cannot be entered: {error}")
            return
        finally:
            os.close(container.pidfd)
        changed = [one.target for one in outcomes if one.what in (ATTACHED, REPLACED)]
        if changed:
            _log.info("container %s: %d files attached", container.name, len(changed))
        for one in outcomes:
            if one.what in (FAILED, LEFT):
                self._say(container, f"{one.target}: {one.why}")

    def _say(self, container: Container, text: str) -> None:
        """Log a line once for each container."""
        line = container.namespace, text
        if line not in self._said:
            self._said.add(line)
            _log.warning("container %s (pid %d): %s", container.name, container.pid, text)


def _watch_all(notify: inotify.Inotify) -> dict[int, str]:
    """Watch every cgroup of one hierarchy in which runtimes make one for each container."""
    hierarchies = Hierarchies.discover()
    mount = hierarchies.v1.get("pids") or hierarchies.v1.get("memory") or hierarchies.v2
    watched: dict[int, str] = {}
    if mount is not None:
        _watch(notify, watched, mount.mountpoint)
    return watched


def _watch(notify: inotify.Inotify, watched: dict[int, str], top: str) -> None:
    """Watch a directory and all below it."""
    pending = [top]
    while pending:
        directory = pending.pop()
        try:
            watched[notify.watch(directory)] = directory
            with os.scandir(directory) as entries:
                pending += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError as error:
            if error.errno not in inotify.ENDED:
                _log.warning("new containers may be noticed late: %s: %s", directory, error)
                return
